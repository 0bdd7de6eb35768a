// Resolves one fault that userfaultfd has reported: it brings the page in, publishes its leaf where
// one may be kept, and wakes the threads that wait for the page.
//
//   lost copy? ──► claim ──► bracket? ──► page-in ──► publish ──► wake
//                    │          │            │           │
//                    │ claimed  │ in flight  │ EAGAIN    │ stolen, and the page was there before
//                    └──────────┴────────────┤           └──► done without a leaf: the copy has woken
//                                            ▼                the threads that waited
//                           deferred: the handler tries again later
//
// Handlers resolve faults of different pages side by side and share nothing but a look into the
// fault window. At one page they meet in its claim: the second handler defers its fault. The claim
// promises nothing (its owner may give it back), so the fault stays with the handler that read it,
// until the page is there. Often the copy of the first handler has woken both threads by then.
//
// R1: it waits for the kernel's locks, and never for a bracket, a reader or another handler.
//
// Thread safety: any thread, each with its own Reader.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_FAULT_RESOLVER_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_FAULT_RESOLVER_H_

#include <cstdint>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/readers/reader.h"
#include "vmm/base/histogram.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/uffd/fault_window.h"
#include "vmm/sources/uffd/lost_copy.h"
#include "vmm/sources/uffd/retry_time.h"
#include "vmm/sources/uffd/uffd_event_handler.h"
#include "vmm/stats/stats.h"

namespace underfoot {

// A fault that a handler has read and not resolved yet.
struct UffdFault {
  Hva page;
  Access access = Access::kRead;
  bool write_protected = false;
  bool minor = false;
  bool alone = false;   // to be brought in without others
  bool merged = false;  // it has met another thread's claim
  int64_t read_ns = 0;  // MonotonicNs
  RetryTime retry;
  std::optional<InFlightRanges::Bracket> bracket;  // that was in its way the last time

  // What the kernel reported of the page, unless that was a while ago.
  GuestPageSource::Fault::Kind kind() const;
};

class FaultResolver {
 public:
  enum class [[nodiscard]] Attempt : uint8_t{kResolved, kDeferred};

  // What a stream will fault on next. The handler of the stream's last fault brings it in when no
  // message waits.
  struct Ahead {
    HvaRange last = {};  // brought in; empty: nothing to do
    HvaRange within = {};
    GuestPageSource::Fault::Kind kind = GuestPageSource::Fault::Kind::kUnknown;
  };

  // `fault_around`: the most pages that are brought in for a fault, 1..512; 1: itself. With huge
  // pages (GuestPageSource::huge_pages) a fault brings in its block instead: always, if its pages
  // are hugetlb pages, and unless fault_around is 1, if they are transparent.
  FaultResolver(Mmu& mmu, Userfaultfd& uffd, const Pagemap& pagemap, GuestPageSource& source,
                const EventReads& reads, UffdEventHandler& events, uint64_t fault_around)
      : mmu_(mmu),
        uffd_(uffd),
        pagemap_(pagemap),
        source_(source),
        reads_(reads),
        events_(events),
        brings_others_(fault_around > 1),
        window_(fault_around) {}
  FaultResolver(const FaultResolver&) = delete;
  FaultResolver& operator=(const FaultResolver&) = delete;

  // kResolved: no thread waits for this fault any more. Whether there is a leaf is another matter: the
  // next access makes one. Called outside of an EventReads::Scope. If a window was brought in, `ahead`
  // is what follows it.
  Attempt TryResolve(const Reader& reader, UffdFault& fault, Ahead& ahead);
  // Brings in one window of `ahead`; what stands in its way is left to the fault on it.
  void BringIn(const Reader& reader, Ahead& ahead);

  void AddTo(UffdStats& stats) const;

 private:
  struct Target {
    Gfn gfn;
    HvaRange around;  // what could be brought in with it
  };

  std::optional<Target> TargetOf(Hva page) const;
  HvaRange NextWindow(Hva page, HvaRange within) ABSL_LOCKS_EXCLUDED(window_mutex_);
  bool WantsBlock(const UffdFault& fault) const;
  std::optional<FaultResult> HandleBlockFault(const Reader& reader, const Target& target,
                                              const UffdFault& fault,
                                              GuestPageSource::Fault& context);
  FaultResult HandleFault(const Reader& reader, const Target& target, const UffdFault& fault,
                          GuestPageSource::Fault& context, Ahead& ahead);
  Attempt Resolve(const Reader& reader, UffdFault& fault, GuestPageSource::Fault& context,
                  Ahead& ahead);
  Attempt ResolveWithoutLeaf(const UffdFault& fault, GuestPageSource::Fault& context);
  Attempt ResolveUnderLeaf(const UffdFault& fault, Gfn gfn, Pte leaf,
                           GuestPageSource::Fault& context);
  void RepairLostCopy(Gfn gfn, const UffdFault& fault);
  void Repair(LostCopy lost, HvaRange page);
  void Resolved(const UffdFault& fault, bool woken);

  Mmu& mmu_;
  Userfaultfd& uffd_;
  const Pagemap& pagemap_;
  GuestPageSource& source_;
  const EventReads& reads_;
  UffdEventHandler& events_;
  const bool brings_others_;  // with a fault
  // Guards: the window's streams. Order: innermost. It is only tried, so no handler waits for one
  // that has lost its CPU: without it the page comes in alone.
  absl::Mutex window_mutex_;
  FaultWindow window_ ABSL_GUARDED_BY(window_mutex_);

  Counter around_;
  Counter blocks_;
  Counter block_fallbacks_;
  Counter merged_;
  LatencyHistogram fault_us_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_FAULT_RESOLVER_H_
