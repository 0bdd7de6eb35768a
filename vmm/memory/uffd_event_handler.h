// What userfaultfd's events tell, as invalidations: REMOVE is a start whose end is never told, so
// its pages settle; UNMAP and REMAP are ends whose start was never told; FORK hands out a
// descriptor. Events of our own hooks are recognized, and told to nobody twice.
//
// Thread safety: Take and FoundGone: one thread, the reader of userfaultfd; it waits for nobody.
// All else: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_UFFD_EVENT_HANDLER_H_
#define UNDERFOOT_VMM_MEMORY_UFFD_EVENT_HANDLER_H_

#include <linux/userfaultfd.h>

#include <cstdint>
#include <vector>

#include "mmu/mmu.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/host_event.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/settling.h"
#include "vmm/stats.h"

namespace underfoot {

class UffdEventHandler {
 public:
  // `sink`: told of each event, and of each page that was found lost; nullptr: nobody.
  UffdEventHandler(Mmu& mmu, ExpectedEvents& expected, SettlingRanges& settling,
                   HostEventSink* sink)
      : mmu_(mmu), expected_(expected), settling_(settling), sink_(sink) {}
  UffdEventHandler(const UffdEventHandler&) = delete;
  UffdEventHandler& operator=(const UffdEventHandler&) = delete;

  // Before the first event.
  void NoteLazyFrees(LazyFrees& lazy) { lazy_ = &lazy; }

  // Of an UFFD_EVENT_REMOVE or _UNMAP.
  static HvaRange RemovedRange(const uffd_msg& message) {
    return {{message.arg.remove.start}, {message.arg.remove.end}};
  }

  // An event, no fault; `read_ns`: MonotonicNs() before the read that gave it.
  void Take(const uffd_msg& message, int64_t read_ns);
  // A page is gone that stage-2 believes present, and no bracket explains it.
  void FoundGone(HvaRange page);
  void CountLostCopy() { lost_copies_.Add(); }

  bool tells() const { return sink_ != nullptr; }
  void AddTo(UffdStats& stats) const;

 private:
  void TakeRemoval(HostEvent& event);
  void TakeChange(HostEvent& event);
  bool Invalidated(HvaRange range);
  std::vector<bool> Translated(HvaRange range);

  Mmu& mmu_;
  ExpectedEvents& expected_;
  SettlingRanges& settling_;
  HostEventSink* const sink_;
  LazyFrees* lazy_ = nullptr;

  Counter removes_;
  Counter unmaps_;
  Counter remaps_;
  Counter forks_;
  Counter lost_copies_;
  Counter freed_lazily_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_UFFD_EVENT_HANDLER_H_
