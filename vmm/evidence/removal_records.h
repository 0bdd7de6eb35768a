// Pairs each removal that userfaultfd has reported with the kernel's own record of it. Either may
// come first.
//
//   userfaultfd's reader ──Reported──► removals ─┐
//                                                ├─ the same pages: TakeRecorded returns the removal
//   kernel notifier ──Explains──► early records ─┘
//
// A removal explains one record of each of its bytes. A record of exactly its pages that was made
// after userfaultfd had been read, by a thread that is no kernel thread, is the record of its zap.
// Another change of exactly these pages at that moment would be mistaken for it.
//
// The last kKept removals and early records are remembered. The record of a removal that has been
// forgotten counts as foreign, which costs an invalidation, and the removal settles by its time
// limit (PendingRemovals).
//
// Thread safety: any thread. Reported never waits for more than a few comparisons (R1).

#ifndef UNDERFOOT_VMM_EVIDENCE_REMOVAL_RECORDS_H_
#define UNDERFOOT_VMM_EVIDENCE_REMOVAL_RECORDS_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"

namespace underfoot {

class RemovalRecords {
 public:
  static constexpr size_t kKept = 512;

  // As PendingRemovals::Complete identifies it.
  struct Removal {
    HvaRange range;
    int64_t read_ns = 0;
  };

  explicit RemovalRecords(HvaRange ram) : ram_(ram) {}

  // Called by the reader of userfaultfd when it has acted upon the event, so that a record which the
  // removal explains leaves nothing to invalidate. Not called for events that a hook has caused.
  void Reported(HvaRange range, int64_t read_ns) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether a removal explains a record of `pages`, which are whole pages of RAM. `may_be_zap`:
  // whether the record may be that of a zap.
  bool Explains(HvaRange pages, int64_t time_ns, bool may_be_zap) ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns the removals whose record has been seen since the last call.
  std::vector<Removal> TakeRecorded() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    Removal removal;
    HvaRange pages;  // of RAM
    uint64_t bytes_left = 0;
  };
  struct Record {
    HvaRange pages;
    int64_t time_ns = 0;
  };

  const HvaRange ram_;
  // Guards: all fields below. Order: innermost. It is held for a few comparisons.
  absl::Mutex mutex_;
  std::deque<Entry> removals_ ABSL_GUARDED_BY(mutex_);  // the latest last
  std::deque<Record> early_ ABSL_GUARDED_BY(mutex_);    // that no removal has explained
  std::vector<Removal> recorded_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_REMOVAL_RECORDS_H_
