// The notifier: brackets a change of the host mm with Begin and End, and tells every subscriber.
//
//   Begin   1. the range joins the set in flight        from here on nothing overlapping is
//   installed
//           2. each subscriber drops its translations   pfn caches first, then stage-2, which
//           flushes once
//           3. wait for readers of the range            always: another Begin may have dropped them
//           just now
//   ---     the host mm call stands here (I2)
//   End     4. the range leaves the set, the sequence moves, installers wake
//
// A bracket is a count, not a lock: it may span a syscall, nest, and overlap others.
//
// Thread safety: any thread. Never inside a read section of an overlapping range (the wait would be
// for oneself) nor an rcu::ReadScope. Invariants: I1, I2 (by its callers' order), I3, I7, I8, I11.
// After: mmu_notifier_invalidate_range_start/end in Linux.

#ifndef UNDERFOOT_MMU_NOTIFIER_H_
#define UNDERFOOT_MMU_NOTIFIER_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "mmu/invalidation.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/reader.h"
#include "mmu/stats.h"
#include "mmu/types.h"

namespace underfoot {

enum class InvalidationKind : uint8_t {
  kUnmap,    // the pages go, or change their frames
  kProtect,  // only the write permission goes
};

struct Invalidation {
  HvaRange range;
  InvalidationKind kind = InvalidationKind::kUnmap;
};

// A secondary MMU. Called from any thread, several at a time.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // On return the subscriber holds no translation that the invalidation forbids, and installs none
  // while the range is in flight. It does not wait for readers: the notifier does, once for all.
  virtual void Invalidate(const Invalidation& invalidation) = 0;
  // Whether the range was accessed since the last clear.
  virtual bool TestClearYoung(HvaRange range, bool clear) = 0;
  // The bracket has ended.
  virtual void OnEnd(HvaRange) {}
};

// A bracket between Begin and End.
class [[nodiscard]] BracketToken {
 public:
  BracketToken() = default;
  ~BracketToken();  // checks that it was ended
  BracketToken(BracketToken&& other) noexcept;
  BracketToken& operator=(BracketToken&& other) noexcept;

  bool open() const { return open_; }
  HvaRange range() const { return range_; }

 private:
  friend class Notifier;
  BracketToken(InFlightRanges::Place place, HvaRange range)
      : place_(place), range_(range), open_(true) {}

  InFlightRanges::Place place_;
  HvaRange range_;
  bool open_ = false;
};

enum class ReaderWait : uint8_t {
  kWait,  // I1 holds when Begin returns
  // For a thread that serves page faults: a reader in a section may itself be waiting for it. No
  // new reader finds the old translation; one that has it may still be using it.
  kNoWait,
};

class Notifier {
 public:
  Notifier(InFlightRanges& in_flight, ReaderRegistry& readers);
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  // `range` is rounded out to pages.
  BracketToken Begin(Invalidation invalidation, ReaderWait wait = ReaderWait::kWait);

  // An End without its Begin (an ended or moved-from token) is counted and has no effect (I3).
  void End(BracketToken& token);

  // Asks every subscriber, whatever the first says (I8).
  bool TestClearYoung(HvaRange range, bool clear);

  // At any time, also while brackets are in flight: what is in flight stays in the set, so a
  // newcomer installs nothing that a Begin before its time forbids (I3). Unregister returns when no
  // thread is inside the subscriber any more; it waits for walks, not for brackets.
  void Register(Subscriber& subscriber);
  void Unregister(Subscriber& subscriber);

  const InFlightRanges& in_flight() const { return in_flight_; }
  NotifierStats Stats() const;

 private:
  // An immutable list, pinned by each walk over it.
  struct SubscriberList : rcu::DeferHead {
    std::vector<Subscriber*> subscribers;
    std::atomic<uint32_t> pins{0};
  };
  class PinnedList;

  void Publish(std::vector<Subscriber*> subscribers);

  InFlightRanges& in_flight_;
  ReaderRegistry& readers_;
  // Guards: who publishes the next list. Order: outermost of mmu/. Held across a grace period and
  // walks of the old list; never across a bracket.
  absl::Mutex publish_mutex_;
  rcu::Pointer<SubscriberList> list_;
  Counter begins_;
  Counter ends_;
  Counter stray_ends_;
};

// Begin and End as a scope.
class InvalidationScope {
 public:
  InvalidationScope(Notifier& notifier, Invalidation invalidation)
      : notifier_(notifier),
        token_(notifier.Begin(invalidation, UNDERFOOT_MUTANT("scope-does-not-wait")
                                                ? ReaderWait::kNoWait
                                                : ReaderWait::kWait)) {}
  ~InvalidationScope() { notifier_.End(token_); }
  InvalidationScope(const InvalidationScope&) = delete;
  InvalidationScope& operator=(const InvalidationScope&) = delete;

 private:
  Notifier& notifier_;
  BracketToken token_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_NOTIFIER_H_
