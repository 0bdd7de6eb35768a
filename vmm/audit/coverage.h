// Attributes the events of all sources to the operations of churn that caused them.
//
// An operation announces its kind and range before its first system call, and ends when its effect
// has happened. An event belongs to an operation if both overlap in range and time, if the source
// can observe that kind, and if the operation can have caused the event. A hook reports in the
// thread of the operation. A change that the kernel made for a thread of churn belongs to an
// operation of that thread. A change that the kernel made for another thread belongs only to kinds
// that let other threads act. A source may read its clock late: kSlackNs after the end are allowed.
//
// An operation reports what it has changed. A source owes an event only for an operation that
// changed something which this source reports. A source that owes nothing cannot miss anything.
//
//   operation   |---- discard [a, b) ----|
//   hook            event [a, b)                       same thread, within
//   uffd                event [a, b)                   stamped when it was read
//   kernel            record [a, b)  ... taken later   stamped by the kernel
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_AUDIT_COVERAGE_H_
#define UNDERFOOT_VMM_AUDIT_COVERAGE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <set>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/stats.h"
#include "vmm/base/histogram.h"
#include "vmm/config/churn_kind.h"
#include "vmm/evidence/host_event.h"
#include "vmm/stats/coverage_matrix.h"

namespace underfoot {

class Coverage final : public HostEventSink {
 public:
  // An operation in progress, as a scope.
  class Operation {
   public:
    Operation(Coverage& coverage, ChurnKind kind, HvaRange range)
        : coverage_(coverage), id_(coverage.Begin(kind, range)) {}
    ~Operation() { coverage_.End(id_, declined_, reportable_); }
    // The host declined the operation, so no source needs to have observed it.
    void Decline() { declined_ = true; }
    // Sets which sources have something to report about the operation. Without this call: all of
    // them.
    void Changed(SourceSet reportable) { reportable_ = reportable; }
    // Another process acts for this operation: changes that the kernel made for that process belong
    // here.
    void ActsAs(int32_t tid) { coverage_.SetActor(id_, tid); }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    Coverage& coverage_;
    const uint64_t id_;
    bool declined_ = false;
    SourceSet reportable_ = kEverySource;
  };

  // At first all sources are off, and no event is expected from them.
  void SetSource(EventSource source, bool on) ABSL_LOCKS_EXCLUDED(mutex_);

  void Report(const HostEvent& event) override ABSL_LOCKS_EXCLUDED(mutex_);

  CoverageMatrix Matrix() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A thread that reads an event may be preempted before it reads the clock.
  static constexpr int64_t kSlackNs = 50'000'000;
  static constexpr size_t kMostEnded = 8192;

  struct Remembered {
    uint64_t id;
    ChurnKind kind;
    HvaRange range;
    int32_t tid;
    int64_t begin_ns;
    SourceSet owed;  // the sources that were on; after the end: those that owe an event
    int64_t end_ns = std::numeric_limits<int64_t>::max();
    int32_t actor = 0;  // the process that acts for it; 0: none

    bool MayHaveCaused(const HostEvent& event, bool of_churn) const;
    // Ranks the operations that may have caused the event: first the one of the thread that made
    // the change, then one with exactly this range, then the latest.
    auto LikelinessOf(const HostEvent& event) const {
      return std::tuple(event.tid == tid || event.tid == actor, event.range == range, begin_ns);
    }
  };
  struct Cell {
    Counter events;
    LatencyHistogram lag_us;
  };

  uint64_t Begin(ChurnKind kind, HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  void SetActor(uint64_t id, int32_t tid) ABSL_LOCKS_EXCLUDED(mutex_);
  void End(uint64_t id, bool declined, SourceSet reportable) ABSL_LOCKS_EXCLUDED(mutex_);
  Remembered& Open(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ForgetOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::optional<ChurnKind> CauseOf(const HostEvent& event) ABSL_LOCKS_EXCLUDED(mutex_);

  std::array<std::array<Cell, kEventSources>, kChurnKinds.size()> cells_;
  std::array<Counter, kChurnKinds.size()> operations_;
  std::array<Counter, kEventSources> others_;
  // Guards: the operations that an event may still belong to, and which sources are on. Order:
  // innermost. It is held while they are searched.
  mutable absl::Mutex mutex_;
  std::vector<Remembered> open_ ABSL_GUARDED_BY(mutex_);  // in the order of their begins
  std::deque<Remembered> ended_ ABSL_GUARDED_BY(mutex_);  // in the order of their ends
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  SourceSet sources_ ABSL_GUARDED_BY(mutex_){};
  // For how many operations each source owes an event, and how many events it may be missing
  // without fault.
  std::array<std::array<uint64_t, kEventSources>, kChurnKinds.size()> owed_
      ABSL_GUARDED_BY(mutex_){};
  SourceSet lost_records_ ABSL_GUARDED_BY(mutex_){};
  // The time of the latest change that each source has reported: it has processed everything up to
  // then.
  std::array<int64_t, kEventSources> reported_ns_ ABSL_GUARDED_BY(mutex_){};
  std::set<int32_t> churn_tids_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_AUDIT_COVERAGE_H_
