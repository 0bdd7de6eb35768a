// What the notifier (mmu/notifier.h) reports, and the interface of those that it notifies.
//
// Thread safety: Invalidation is a value. The notifier calls a Subscriber from any thread, from
// several threads at a time.
// Invariants: I1, I7, I8.
// After: struct mmu_notifier_range and struct mmu_notifier_ops in Linux.

#ifndef UNDERFOOT_MMU_BASE_INVALIDATION_H_
#define UNDERFOOT_MMU_BASE_INVALIDATION_H_

#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot {

enum class InvalidationKind : uint8_t {
  kUnmap,    // the pages go, or change their frames
  kProtect,  // only the write permission goes
};

class Subscriber;

struct Invalidation {
  HvaRange range;
  InvalidationKind kind = InvalidationKind::kUnmap;
  // The subscriber that begins this bracket itself, or nullptr. The notifier notifies it as it does
  // the others. By this field the subscriber recognizes a change that it knows already.
  const Subscriber* origin = nullptr;
  // A subscriber sets it in Invalidate if its AfterInvalidate has work to do for this bracket. Begin
  // has its own copy of the invalidation, so no other bracket sees it.
  mutable bool follow_up = false;
};

// A secondary MMU. Any thread calls it, several threads at a time, inside an RCU read section.
// Invalidate, TestClearYoung and OnEnd may take locks of group 2 (LOCKING.md) and wait for nothing
// else. AfterInvalidate is called outside the read section and may wait.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // On return the subscriber holds no translation that the invalidation forbids, and installs none
  // while the range is in flight. Returns true if there was one, or may have been: the notifier then
  // waits for its readers, once for all subscribers. A subscriber that drops translations of a range
  // outside a bracket keeps the range in flight until their readers have left (see Mmu), or returns
  // true until then (a pfn cache stays listed).
  [[nodiscard]] virtual bool Invalidate(const Invalidation& invalidation) = 0;
  // Called outside the read section, with the same object as Invalidate, if Invalidate of any
  // subscriber has returned true.
  virtual void AfterInvalidate(const Invalidation&) {}
  // Whether the range was accessed since the last clear.
  virtual bool TestClearYoung(HvaRange range, bool clear) = 0;
  // The bracket has ended.
  virtual void OnEnd(HvaRange) {}
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_INVALIDATION_H_
