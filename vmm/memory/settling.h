// Ranges that a foreign removal is settling on (P6: M4, M5): userfaultfd reports the start of a
// removal and never its end, so for a while a page that is copied in may still be zapped. Meanwhile
// the guest runs on the page and no translation of it is kept.
//
// A page has settled when one of these is so:
//   a record   the kernel told of this removal's zap, and then mmap_lock was free of whoever held
//              it: the zap is over. Where records are expected (ExpectRecords).
//   evidence   it was there after the removal had been read (a leaf said so), and has since been
//              seen absent, with no bracket of our own over it: the zap has passed. A removal goes
//              over a page once. Two removals that settle on the same page give no evidence.
//   a bound    in time, for pages that were not there: a madvising thread may sleep longer between
//              the event and its zap. What is lost then is found by the next fault on the page and
//              repaired (M7). Where records are expected it is long, since not every removal has
//              one: its mapping may be gone, or the record lost.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_SETTLING_H_
#define UNDERFOOT_VMM_MEMORY_SETTLING_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/ordering.h"
#include "mmu/types.h"
#include "vmm/memory/host_event.h"

namespace underfoot {

class SettlingRanges {
 public:
  using Clock = absl::Time (*)();

  // No step of the wall clock may end or prolong what settles.
  static absl::Time MonotonicNow() { return absl::FromUnixNanos(MonotonicNs()); }

  explicit SettlingRanges(absl::Duration bound = absl::Milliseconds(100), Clock now = &MonotonicNow)
      : bound_(bound), now_(now) {}

  // A removal of the range was read. The number names it, and so do the range and `told_ns`, the
  // time of that read.
  uint64_t Add(HvaRange range, int64_t told_ns = 0) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether Passed will be called for the removals that are added from now on.
  void ExpectRecords(bool expect) ABSL_LOCKS_EXCLUDED(mutex_);
  // The zap of the removal is over.
  void Passed(HvaRange range, int64_t told_ns) ABSL_LOCKS_EXCLUDED(mutex_);
  // Those that were added so far are bounded as if no record were expected, from now on.
  void RecordsLost() ABSL_LOCKS_EXCLUDED(mutex_);

  // Which pages of it were there after Add, in their order.
  void Witness(uint64_t removal, std::vector<bool> there) ABSL_LOCKS_EXCLUDED(mutex_);
  // A bracket of our own: what is absent from now on may be its work.
  void Spoil(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  // `before` is what Now() was before the page was looked at.
  uint64_t Now() const { return witnesses_.load(kAcquire); }
  void SawAbsent(Hva page, uint64_t before) ABSL_LOCKS_EXCLUDED(mutex_);

  // No removal was read lately.
  bool Nothing() const { return count_.load(kStoreLoad) == 0; }
  // A removal of some page of the range may still be under way.
  bool Settling(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // A removal was read lately: a page of the range that is gone needs no other explanation.
  bool Explains(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Pages that settled by evidence.
  uint64_t settled() const { return settled_.load(kRelaxed); }
  // Removals that settled by the kernel's record.
  uint64_t passed() const { return passed_.load(kRelaxed); }

 private:
  static constexpr absl::Duration kMemory = absl::Seconds(5);
  static constexpr absl::Duration kWithoutRecord = absl::Seconds(2);

  struct Entry {
    uint64_t number = 0;
    HvaRange range;
    int64_t told_ns = 0;
    absl::Time added;
    absl::Time until;  // the bound; in the past once the removal has passed
    bool spoiled = false;
    uint64_t witnessed = 0;  // 0: not, or not any more
    std::vector<bool> there;
    std::vector<bool> settled;

    uint64_t IndexOf(Hva page) const { return (page - PageOf(range.begin)) >> kPageShift; }
    bool SettlesOn(HvaRange pages) const;
  };

  // Forgets the old ones.
  void Trim(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Calls `take` for the entries that overlap and have not settled, the latest first, until it says
  // false.
  template <class Take>
  void ForEachOpen(HvaRange range, const Take& take) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration bound_;
  const Clock now_;
  // Lets the common case, nothing settling, take no lock.
  // Pairs with: each other. A bracket drops leaves and then looks here; a removal is added here and
  // then looks for leaves. Without it: both miss each other, and a page that the bracket took is
  // evidence of the removal.
  std::atomic<uint64_t> count_{0};
  // Moves with each witness. Pairs with: Now before a look at a page. Without it: a look from
  // before the removal is evidence of it.
  std::atomic<uint64_t> witnesses_{0};
  std::atomic<uint64_t> settled_{0};
  std::atomic<uint64_t> passed_{0};
  // Guards: the entries. Order: innermost; nothing is called with it held.
  absl::Mutex mutex_;
  // In the order of their numbers. Those before `first_open_` have settled: a look at the last ones
  // is enough.
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t first_open_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
  bool expects_records_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_SETTLING_H_
