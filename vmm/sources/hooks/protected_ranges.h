// Ranges of guest RAM from which mprotect has taken permissions. The bracket over such a range
// stays open until the permissions are back: a translation that is made meanwhile would grant an
// access that the mapping does not allow.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_SOURCES_HOOKS_PROTECTED_RANGES_H_
#define UNDERFOOT_VMM_SOURCES_HOOKS_PROTECTED_RANGES_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "mmu/notifier.h"

namespace underfoot {

class ProtectedRanges {
 public:
  explicit ProtectedRanges(Notifier& notifier) : notifier_(notifier) {}
  // What is still held ends.
  ~ProtectedRanges();
  ProtectedRanges(const ProtectedRanges&) = delete;
  ProtectedRanges& operator=(const ProtectedRanges&) = delete;

  // Called before the permissions go, so that a thread that faults on the change finds it announced.
  // Hold or Withdraw follows.
  void Announce();
  void Hold(BracketToken token) ABSL_LOCKS_EXCLUDED(mutex_);
  // They did not go.
  void Withdraw(BracketToken token);

  // The permissions of `range` are back, or it has been unmapped. An empty range lifts nothing.
  void Lift(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether anything is protected now.
  bool any() const { return count_.load(kAcquire) != 0; }
  // Counts protections announced and lifted, to be compared with what one saw last.
  uint32_t epoch() const { return epoch_.load(kAcquire); }
  // Returns at once if no protection is in force. Otherwise returns when a protection is lifted or
  // another one is announced. It does not wait until none is left, because the protections of
  // several threads may overlap without end.
  void WaitForChange() const;

 private:
  std::vector<BracketToken> TakeOverlapping(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  void Gone();

  Notifier& notifier_;
  // Guards: the open brackets. Order: innermost; never held over a Begin or an End.
  absl::Mutex mutex_;
  std::vector<BracketToken> held_ ABSL_GUARDED_BY(mutex_);
  // Announced or held.
  // Pairs with: WaitForChange and epoch, which load both. Without it: a vCPU that has met a
  // protection finds neither the protection nor its end, and reports the EFAULT as a real error.
  std::atomic<uint32_t> count_{0};
  std::atomic<uint32_t> epoch_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_HOOKS_PROTECTED_RANGES_H_
