// When the kernel last reported a change of each page of guest RAM that neither a bracket of this
// process nor a removal reported by userfaultfd explains. The kernel notifier notes the changes; the
// auditor asks whether one of them explains a translation that it has found wrong.
//
// There is one time for each page, so no number of changes displaces an earlier one.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_FOREIGN_CHANGES_H_
#define UNDERFOOT_VMM_EVIDENCE_FOREIGN_CHANGES_H_

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "mmu/base/types.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {

class ForeignChanges {
 public:
  using Clock = int64_t (*)();

  // By this time after its report a change is complete, and explains nothing any more.
  static constexpr int64_t kMemoryNs = 1'000'000'000;

  // `ram` consists of whole pages. Throws std::bad_alloc.
  explicit ForeignChanges(HvaRange ram, Clock now = &MonotonicNs);

  // Called when the change has been acted upon. `pages` are whole pages of RAM.
  void Note(HvaRange pages);
  // Whether a change of some page of the range was noted within kMemoryNs. A thread that has
  // returned from KernelNotifier::Drain finds each change that Drain has waited for.
  bool Lately(HvaRange range) const;

 private:
  struct Free {
    void operator()(int64_t* times) const { std::free(times); }
  };

  const HvaRange ram_;
  const Clock now_;
  // Relaxed: the mutex of Drain orders the times, and without Drain a late one only means that the
  // auditor looks again. The kernel backs the array with memory only where a time has been stored.
  std::unique_ptr<int64_t[], Free> times_;  // of each page; 0: never
  std::atomic<int64_t> all_ns_{0};          // of all pages at once
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_FOREIGN_CHANGES_H_
