// Turns userfaultfd's events into invalidations. REMOVE is a start whose end is never reported, so
// the removal is pending for a while (PendingRemovals). UNMAP and REMAP are ends whose start was
// never reported. FORK hands out a descriptor. Events of our own hooks are recognized and are not
// reported a second time.
//
// Thread safety: any thread. Several handlers may apply events of the same pages at once, in any
// order: each application is an invalidation, which is right at any time. Nothing here waits for an
// invalidation, a reader or a page-in (R1).

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_UFFD_EVENT_HANDLER_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_UFFD_EVENT_HANDLER_H_

#include <linux/userfaultfd.h>

#include <cstdint>
#include <vector>

#include "mmu/mmu.h"
#include "vmm/base/backing.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/host_event.h"
#include "vmm/evidence/lazy_frees.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/evidence/removal_records.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/stats/stats.h"

namespace underfoot {

struct UffdEventOptions {
  // Receives each event, and each page that was found lost; nullptr: nothing is reported.
  HostEventSink* sink = nullptr;
  // The pages that MADV_FREE may have left in place. If such a page is found absent, it is not a
  // lost copy. A removal by another thread is added to them, because it may have been an MADV_FREE.
  // nullptr: no page is lazily freed.
  LazyFrees* lazy = nullptr;
  // Receives each removal by another thread or process; nullptr: the kernel's records are not read.
  RemovalRecords* removal_records = nullptr;
  // A mapping that takes the place of RAM past the hooks has no registration: it is registered as
  // memory of `backing`. Where that fails, the range is reported as kLostRecords: nothing is seen
  // of it any more. Outside of `ram` nothing is registered: what lies there is not ours, and its
  // owner may be a handler's thread, whose munmap would wait for its own read.
  HvaRange ram = {};
  Backing backing = Backing::kAnon;
  HugePages huge_pages = HugePages::kOff;
};

class UffdEventHandler {
 public:
  // `monitor`: named as the origin of each bracket that is begun here.
  UffdEventHandler(Mmu& mmu, Userfaultfd& uffd, const Subscriber& monitor, ExpectedEvents& expected,
                   PendingRemovals& removals, const UffdEventOptions& options)
      : mmu_(mmu),
        uffd_(uffd),
        monitor_(monitor),
        expected_(expected),
        pending_(removals),
        sink_(options.sink),
        lazy_(options.lazy),
        removal_records_(options.removal_records),
        ram_(options.ram),
        backing_(options.backing),
        huge_pages_(options.huge_pages) {}
  UffdEventHandler(const UffdEventHandler&) = delete;
  UffdEventHandler& operator=(const UffdEventHandler&) = delete;

  // Of an UFFD_EVENT_REMOVE or _UNMAP.
  static HvaRange RemovedRange(const uffd_msg& message) {
    return {{message.arg.remove.start}, {message.arg.remove.end}};
  }

  // What a handler noted before the read that gave a message.
  struct Before {
    int64_t read_ns = 0;   // MonotonicNs
    uint64_t returns = 0;  // ExpectedEvents::Returns
  };
  Before NoteBeforeRead() const {
    const bool reported = sink_ != nullptr || removal_records_ != nullptr;
    return {.read_ns = reported ? MonotonicNs() : 0, .returns = expected_.Returns()};
  }
  // Applies an event, which is no fault. The caller's EventReads::Scope ends after this.
  void Apply(const uffd_msg& message, const Before& before);
  // A page is gone that stage-2 believes present, and no bracket explains it.
  void FoundGone(HvaRange page);
  // The same, but brackets may explain it: its translations go.
  void Drop(HvaRange page) { static_cast<void>(Invalidated(page)); }
  void CountLostCopy() { lost_copies_.Add(); }

  void AddTo(UffdStats& stats) const;

 private:
  void ApplyRemoval(HostEvent& event, uint64_t since);
  void ApplyChange(HostEvent& event, uint64_t since);
  // Drops the translations of the event\'s range and reports the removal to RemovalRecords.
  void DropRemoved(HostEvent& event);
  void RegisterAgain(HvaRange range);
  bool Invalidated(HvaRange range);
  std::vector<bool> Translated(HvaRange range);

  Mmu& mmu_;
  Userfaultfd& uffd_;
  const Subscriber& monitor_;
  ExpectedEvents& expected_;
  PendingRemovals& pending_;
  HostEventSink* const sink_;
  LazyFrees* const lazy_;
  RemovalRecords* const removal_records_;
  const HvaRange ram_;
  const Backing backing_;
  const HugePages huge_pages_;

  Counter removes_;
  Counter unmaps_;
  Counter remaps_;
  Counter forks_;
  Counter lost_copies_;
  Counter freed_lazily_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_UFFD_EVENT_HANDLER_H_
