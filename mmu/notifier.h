// The notifier: brackets a change of the host mm with Begin and End, and tells every subscriber.
//
//   Begin   1. the range joins the set in flight        nothing overlapping is installed from here
//           2. each subscriber drops its translations   pfn caches first, then stage-2, which
//                                                       flushes once
//           3. wait for readers of the range            unless nobody can be reading it: it found
//                                                       nothing, and no other bracket in flight
//                                                       may have found it before
//   ---     the host mm call stands here (I2)
//   End     4. the range leaves the set, the sequence moves, installers wake
//
// A bracket is a count, not a lock: it may span a syscall, nest, and overlap others.
//
// Step 3 is skipped only where the bracket found nothing: a reader that still uses a translation of
// the range has it from before some other bracket cleared it, and that one is in flight until the
// reader has left. So an invalidation of what nobody uses touches no reader's cache line.
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

// A secondary MMU. Called from any thread, several at a time, inside an RCU read section: nothing
// here may wait for more than a lock that nobody waits under, but for AfterInvalidate.
class Subscriber {
 public:
  virtual ~Subscriber() = default;
  // On return the subscriber holds no translation that the invalidation forbids, and installs none
  // while the range is in flight. True when there was one, or may have been: readers of it are then
  // waited for, by the notifier, once for all subscribers. Whoever drops translations of a range at
  // another time keeps the range in flight until their readers have left (see Mmu), or says true
  // until then (a pfn cache stays listed).
  [[nodiscard]] virtual bool Invalidate(const Invalidation& invalidation) = 0;
  // After an Invalidate of which some subscriber said true, outside the read section.
  virtual void AfterInvalidate() {}
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
  // An immutable list. Walks over it are RCU read sections; those that go on outside have pinned
  // it.
  struct SubscriberList : rcu::DeferHead {
    std::vector<Subscriber*> subscribers;
    std::atomic<uint32_t> pins{0};
  };

  bool TellSubscribers(const Invalidation& invalidation);
  static void Unpin(SubscriberList& list);
  void Publish(std::vector<Subscriber*> subscribers);

  InFlightRanges& in_flight_;
  ReaderRegistry& readers_;
  // Guards: who publishes the next list. Order: outermost of mmu/. Held across a grace period and
  // walks of the old list; never across a bracket.
  absl::Mutex publish_mutex_;
  rcu::Pointer<SubscriberList> list_;
  ShardedCounter begins_;
  ShardedCounter ends_;
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
  bool found() const { return token_.found(); }
  InvalidationScope(const InvalidationScope&) = delete;
  InvalidationScope& operator=(const InvalidationScope&) = delete;

 private:
  Notifier& notifier_;
  BracketToken token_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_NOTIFIER_H_
