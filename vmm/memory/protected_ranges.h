// Guest RAM that mprotect has taken permissions from: its bracket stays open until they are back,
// since a translation made meanwhile would grant what the mapping does not.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_PROTECTED_RANGES_H_
#define UNDERFOOT_VMM_MEMORY_PROTECTED_RANGES_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/notifier.h"
#include "mmu/ordering.h"
#include "mmu/types.h"

namespace underfoot {

class ProtectedRanges {
 public:
  explicit ProtectedRanges(Notifier& notifier) : notifier_(notifier) {}
  // What is still held ends.
  ~ProtectedRanges();
  ProtectedRanges(const ProtectedRanges&) = delete;
  ProtectedRanges& operator=(const ProtectedRanges&) = delete;

  // Before the permissions go: whoever runs into the change finds it announced. Then one of the
  // two.
  void Announce();
  void Hold(BracketToken token) ABSL_LOCKS_EXCLUDED(mutex_);
  // They did not go.
  void Withdraw(BracketToken token);

  // The permissions of `range` are back, or nothing is mapped there any more.
  void Lift(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Counts protections announced and lifted, to be compared with what one saw last.
  uint32_t epoch() const { return epoch_.load(kAcquire); }
  // Returns when one was lifted since the call, or there is none. Not when there is none at last:
  // those of several threads overlap for as long as they please.
  void WaitForChange() const;

 private:
  std::vector<BracketToken> TakeOverlapping(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  void Gone();

  Notifier& notifier_;
  // Guards: the open brackets. Order: innermost; never held over a Begin or an End.
  absl::Mutex mutex_;
  std::vector<BracketToken> held_ ABSL_GUARDED_BY(mutex_);
  // Announced or held.
  // Pairs with: each other's loads in WaitForChange and epoch. Without it: a vCPU that ran into a
  // protection finds neither it nor its end, and takes the EFAULT for a real one.
  std::atomic<uint32_t> count_{0};
  std::atomic<uint32_t> epoch_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_PROTECTED_RANGES_H_
