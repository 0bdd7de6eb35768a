// Attributes the events of all sources to the operations of churn that caused them.
//
// An operation announces its kind and range before its first call and ends when its effect has
// happened; an event belongs to the latest operation that overlaps it in range and time
// and whose kind the source may see. A source
// that reads its clock late is allowed kSlack after the end.
//
//   operation   |---- discard [a, b) ----|
//   hook            event [a, b)                       same thread, within
//   uffd                event [a, b)                   stamped when it was read
//   kernel            record [a, b)  ... taken later   stamped by the kernel
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_COVERAGE_COVERAGE_H_
#define UNDERFOOT_VMM_COVERAGE_COVERAGE_H_

#include <array>
#include <cstdint>
#include <deque>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/stats.h"
#include "vmm/churn_kind.h"
#include "vmm/coverage/matrix.h"
#include "vmm/histogram.h"
#include "vmm/memory/host_event.h"

namespace underfoot {

class Coverage final : public HostEventSink {
 public:
  // An operation under way, as a scope.
  class Operation {
   public:
    Operation(Coverage& coverage, ChurnKind kind, HvaRange range)
        : coverage_(coverage), id_(coverage.Begin(kind, range)) {}
    ~Operation() { coverage_.End(id_, declined_); }
    // The host did not do it: nobody has to have seen it.
    void Decline() { declined_ = true; }
    Operation(const Operation&) = delete;
    Operation& operator=(const Operation&) = delete;

   private:
    Coverage& coverage_;
    const uint64_t id_;
    bool declined_ = false;
  };

  // All are off at first: nothing is expected of them.
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
    int64_t end_ns = std::numeric_limits<int64_t>::max();

    bool MayHaveCaused(const HostEvent& event) const;
    // Of those that may: the one of the thread that did it, else of just this range, else the
    // latest.
    auto LikelinessOf(const HostEvent& event) const {
      return std::tuple(event.tid == tid, event.range == range, begin_ns);
    }
  };
  struct Cell {
    Counter events;
    LatencyHistogram lag_us;
  };

  uint64_t Begin(ChurnKind kind, HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);
  void End(uint64_t id, bool declined) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<ChurnKind> CauseOf(const HostEvent& event) ABSL_LOCKS_EXCLUDED(mutex_);

  std::array<std::array<Cell, kEventSources>, kChurnKinds.size()> cells_;
  std::array<Counter, kChurnKinds.size()> operations_;
  std::array<Counter, kEventSources> others_;
  // Guards: the operations that an event may still belong to, and which sources are on. Order:
  // innermost; held for a scan of them.
  mutable absl::Mutex mutex_;
  std::vector<Remembered> open_ ABSL_GUARDED_BY(mutex_);  // in the order of their begins
  std::deque<Remembered> ended_ ABSL_GUARDED_BY(mutex_);  // in the order of their ends
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<bool, kEventSources> sources_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_COVERAGE_COVERAGE_H_
