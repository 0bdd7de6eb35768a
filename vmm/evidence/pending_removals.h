// Ranges on which a removal by another process or a raw system call may still be under way.
// userfaultfd reports the start of a removal and never its end. So for a while after the report the
// kernel may still zap a page that is copied in. During that time the guest runs on the page, and
// no translation of it is kept.
//
// A page has settled (the removal can no longer zap it) when one of these holds:
//   a record   The kernel has reported the zap of this removal, and afterwards all threads that
//              held mmap_lock at that time have released it. Then the zap is over. Used only if
//              records are expected (ExpectRecords).
//   evidence   The page was present after the removal had been read (a leaf shows that) and was
//              later found absent, with no bracket of this process over it and no event that is
//              read but not yet added. Then the zap has passed, because a removal zaps a page only
//              once. If two removals were ever open on a page at the same time, absence proves
//              nothing there for either, also after one of them has passed: the page may be absent
//              because of the one that has passed, while the zap of the other is still to come.
//   a bound    A time limit, for pages without evidence. The removing thread may sleep longer
//              than that between the event and its zap; the next fault on the page then finds the
//              lost copy and repairs it. Where records are expected the limit is long, because not
//              every removal has a record: its mapping may be gone, or the record may be lost.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_PENDING_REMOVALS_H_
#define UNDERFOOT_VMM_EVIDENCE_PENDING_REMOVALS_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "vmm/evidence/event_reads.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {

class PendingRemovals {
 public:
  using Clock = absl::Time (*)();

  // The monotonic clock: a change of the wall clock must neither end nor prolong the time limit.
  static absl::Time MonotonicNow() { return absl::FromUnixNanos(MonotonicNs()); }

  explicit PendingRemovals(absl::Duration bound = absl::Milliseconds(100),
                           Clock now = &MonotonicNow)
      : bound_(bound), now_(now) {}

  // Adds a removal that a handler has read, before that handler's EventReads::Scope ends. It is
  // identified by the returned number, and also by its range and `reported_ns`, the time of that
  // read.
  uint64_t Add(HvaRange range, int64_t reported_ns = 0) ABSL_LOCKS_EXCLUDED(mutex_);

  // Sets whether Complete will be called for the removals that are added from now on.
  void ExpectRecords(bool expect) ABSL_LOCKS_EXCLUDED(mutex_);
  // Records that the zap of this removal is over.
  void Complete(HvaRange range, int64_t reported_ns) ABSL_LOCKS_EXCLUDED(mutex_);
  // From now on, the removals added so far end within the constructor's `bound`, as if no records
  // were expected.
  void RecordsLost() ABSL_LOCKS_EXCLUDED(mutex_);

  // `there` has one element for each page of the removal, in their order: whether the page was
  // present after Add. Empty: nothing is known. Other handlers may add removals in between.
  void NotePresent(uint64_t removal, std::vector<bool> there) ABSL_LOCKS_EXCLUDED(mutex_);
  // Which reads may have given a removal that is not added yet.
  EventReads& reads() { return reads_; }

  // Called by a bracket of this process: a page that is absent from now on may have been removed by
  // the bracket's call.
  void DiscardEvidence(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  // Another process or thread has unmapped or replaced the range, and its event came after that.
  // Pages that were seen absent may have been absent because of it, and not because a removal
  // passed them: the removals that are open on the range are pending again.
  void Reopen(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  // NoteAbsent is called after a look at the page that found it absent. `before` is the value that
  // Now() had before that look.
  uint64_t Now() const { return presence_notes_.load(kAcquire); }
  void NoteAbsent(Hva page, uint64_t before) ABSL_LOCKS_EXCLUDED(mutex_);

  // True: no removal has been read recently.
  bool None() const { return count_.load(kStoreLoad) == 0; }
  // Whether a removal of some page of the range may still be under way.
  bool Pending(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether a removal of the range was read recently: then the absence of a page needs no other
  // explanation.
  bool Explains(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // The number of pages that settled by evidence.
  uint64_t settled() const { return settled_.load(kRelaxed); }
  // The number of removals that settled by the kernel's record.
  uint64_t passed() const { return passed_.load(kRelaxed); }

 private:
  static constexpr absl::Duration kMemory = absl::Seconds(5);
  static constexpr absl::Duration kWithoutRecord = absl::Seconds(2);

  struct Entry {
    uint64_t number = 0;
    HvaRange range;
    int64_t reported_ns = 0;
    absl::Time added;
    absl::Time until;    // the time limit; it lies in the past once the removal has passed
    bool noted = false;  // NotePresent has been called
    bool evidence_discarded = false;  // absence proves nothing on any page of it
    uint64_t note = 0;  // `presence_notes_` after NotePresent; 0: there is no evidence
    // Until NotePresent: overlaps with removals that were open together with this one. Absence
    // proves nothing there.
    std::vector<HvaRange> shared;
    std::vector<bool> there;
    std::vector<bool> settled;

    uint64_t IndexOf(Hva page) const { return (page - PageOf(range.begin)) >> kPageShift; }
    bool IsPendingOn(HvaRange pages) const;
    // The absence of these pages does not prove, or no longer, that this removal has passed.
    void ShareEvidence(HvaRange pages);
    void DiscardEvidence() {
      evidence_discarded = true;
      note = 0;
    }
  };

  // nullptr: it is no longer remembered.
  Entry* Find(uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops the entries that are older than kMemory.
  void Trim(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Calls `take` for each entry that overlaps the range and has not settled, the latest first,
  // until `take` returns false.
  template <class Take>
  void ForEachOpen(HvaRange range, const Take& take) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration bound_;
  const Clock now_;
  // Lets the common case, in which no removal is open, avoid the lock.
  // Pairs with: itself, as store buffering. A bracket drops leaves and then reads this count; the
  // monitor adds a removal and then looks for leaves. Without it: both could miss each other, and a
  // page that the bracket's call removed would count as evidence for the removal.
  std::atomic<uint64_t> count_{0};
  // Incremented by each NotePresent.
  // Pairs with: the call of Now before a look at a page. Without it: a look that was made before
  // the removal would count as evidence for it.
  std::atomic<uint64_t> presence_notes_{0};
  EventReads reads_;
  std::atomic<uint64_t> settled_{0};
  std::atomic<uint64_t> passed_{0};
  // Guards: the entries. Order: innermost. No other function is called while it is held.
  absl::Mutex mutex_;
  // In the order of their numbers. All entries before `first_open_` have settled, so only the later
  // ones need to be searched.
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_open_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
  bool expects_records_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_PENDING_REMOVALS_H_
