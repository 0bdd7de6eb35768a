// The notifier: brackets a change of the host mm with Begin and End, and notifies every subscriber.
//
//   Begin   1. the range joins the set in flight        from here on no installer publishes a
//                                                       translation of the range; system calls on
//                                                       the range are marked
//           2. each subscriber drops its translations   pfn caches first, then stage-2, which
//                                                       flushes once
//           3. wait for the readers of the range        skipped with kNoWait, and in the case below
//   ---     the caller makes the host mm call here (I2)
//   End     4. the range leaves the set; installers that wait for this End wake
//
// A bracket is a count and not a lock. It may span a system call, nest in another bracket, and
// overlap others.
//
// With kWait, Begin skips step 3 only if three conditions hold: no subscriber had a translation of
// the range; no other bracket in flight overlaps the range, which Begin checks after step 2; and
// ReaderRegistry::MustLook returns false. In that case no reader still uses a translation of the
// range: such a reader has it from before another bracket dropped it, and that bracket stays in
// flight until the reader has left, or makes MustLook return true. So an invalidation of memory
// that no reader uses touches no reader's cache line (LOCKING.md, P1).
//
// Thread safety: any thread. The caller of Begin must not be in a read section of an overlapping
// range, because Begin would wait for its own thread, nor in an rcu::ReadScope.
// Invariants: I1, I2 (by its callers' order), I3, I7, I8, I11.
// After: mmu_notifier_invalidate_range_start and mmu_notifier_invalidate_range_end in Linux.

#ifndef UNDERFOOT_MMU_NOTIFIER_H_
#define UNDERFOOT_MMU_NOTIFIER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/invalidation.h"
#include "mmu/base/rcu.h"
#include "mmu/base/stats.h"
#include "mmu/base/types.h"
#include "mmu/direct_requests.h"
#include "mmu/in_flight_ranges.h"
#include "mmu/readers/reader.h"

namespace underfoot {

// A bracket between Begin and End.
class [[nodiscard]] BracketToken {
 public:
  BracketToken() = default;
  ~BracketToken();  // checks that it was ended
  BracketToken(BracketToken&& other) noexcept;
  BracketToken& operator=(BracketToken&& other) noexcept;

  bool open() const { return open_; }
  HvaRange range() const { return range_; }
  // Begin dropped a translation of the range, or may have.
  bool found() const { return found_; }

 private:
  friend class Notifier;
  BracketToken(InFlightRanges::Place place, HvaRange range)
      : place_(place), range_(range), open_(true) {}

  InFlightRanges::Place place_;
  HvaRange range_;
  bool open_ = false;
  bool found_ = false;
};

enum class ReaderWait : uint8_t {
  kWait,  // I1 holds when Begin returns
  // For a thread that serves page faults, for which a reader in a section may be waiting. No reader
  // finds the old translation any more, but a reader that found it before may still use it.
  kNoWait,
};

class Notifier {
 public:
  Notifier(InFlightRanges& in_flight, ReaderRegistry& readers, DirectRequests& direct_requests);
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  // `range` is rounded out to pages.
  BracketToken Begin(Invalidation invalidation, ReaderWait wait = ReaderWait::kWait);

  // An End without its Begin (an ended or moved-from token) is counted and has no effect (I3).
  void End(BracketToken& token);

  // Calls every subscriber, also if the first returns true (I8). `range` is rounded out to pages.
  bool TestClearYoung(HvaRange range, bool clear);

  // Both may be called at any time, also while brackets are in flight. The ranges of these brackets
  // stay in the set, so a new subscriber installs nothing that an earlier Begin forbids (I3).
  // Unregister returns when no thread is inside the subscriber any more. It waits for walks, and
  // never for a bracket. If there is no memory, Register throws std::bad_alloc and changes nothing.
  // Unregister needs no memory.
  void Register(Subscriber& subscriber);
  void Unregister(Subscriber& subscriber);

  const InFlightRanges& in_flight() const { return in_flight_; }

  // How many brackets have begun. Code that looks at a page, and must know whether a bracket began
  // meanwhile, reads this before and after its look. The look must be a system call that takes a
  // lock of the mm: see `begins_` in LOCKING.md.
  uint64_t begun() const { return begins_.Get(); }
  NotifierStats Stats() const;

 private:
  // An immutable list. A walk over it is an RCU read section. A walk that must go on after the
  // section (AfterInvalidate) pins the list first.
  struct SubscriberList : rcu::DeferHead {
    std::vector<Subscriber*> subscribers;
    std::atomic<uint32_t> pins{0};
  };

  bool NotifySubscribers(const Invalidation& invalidation);
  static void Unpin(SubscriberList& list);
  void PublishLocked(std::unique_ptr<SubscriberList> next)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(publish_mutex_);

  InFlightRanges& in_flight_;
  ReaderRegistry& readers_;
  DirectRequests& direct_requests_;
  // Guards: the publication of the next list. Order: group 1. Held across a grace period and
  // walks of the old list; never across a bracket.
  absl::Mutex publish_mutex_;
  rcu::Pointer<SubscriberList> list_;
  // A list for each Unregister to come, with room for all that are registered.
  std::vector<std::unique_ptr<SubscriberList>> spare_ ABSL_GUARDED_BY(publish_mutex_);
  ShardedCounter begins_;
  ShardedCounter ends_;
  Counter stray_ends_;
};

// Begin and End as a scope.
class InvalidationScope {
 public:
  InvalidationScope(Notifier& notifier, Invalidation invalidation)
      : notifier_(notifier), token_(notifier.Begin(invalidation)) {}
  ~InvalidationScope() { notifier_.End(token_); }
  bool found() const { return token_.found(); }
  InvalidationScope(const InvalidationScope&) = delete;
  InvalidationScope& operator=(const InvalidationScope&) = delete;

 private:
  Notifier& notifier_;
  BracketToken token_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_NOTIFIER_H_
