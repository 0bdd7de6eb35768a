// The last events of all sources, in the order of their arrival, for those who look back: the
// stream of GET /v1/events, the auditor that wants an explanation, the coverage matrix.
//
//   sources ──Report──► ring of kCapacity, numbered from 0 ──► Since(number): what came after
//                         └──► one more sink, called for each event before Report returns
//
// A reader that falls behind by more than the ring holds sees a gap in the numbers; nobody waits
// for it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_EVENT_LOG_H_
#define UNDERFOOT_VMM_MEMORY_EVENT_LOG_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/memory/host_event.h"

namespace underfoot {

struct NumberedEvent {
  uint64_t number = 0;
  HostEvent event;
};

// Totals since start, by source and change.
using EventCounts = std::array<std::array<uint64_t, kHostChanges>, kEventSources>;

class EventLog final : public HostEventSink {
 public:
  static constexpr size_t kCapacity = 16384;

  EventLog() : ring_(kCapacity) {}

  void Report(const HostEvent& event) override ABSL_LOCKS_EXCLUDED(mutex_);

  // Told of every event, with no lock held; nullptr: nobody. Before the sources start.
  void SetSink(HostEventSink* sink) { sink_ = sink; }

  // The number that the next event gets.
  uint64_t end() const ABSL_LOCKS_EXCLUDED(mutex_);
  // At most `most` of the events with a number of at least `first` that are still there.
  std::vector<NumberedEvent> Since(uint64_t first, size_t most) const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether one of the events with a number of at least `first` is about a page of `range`.
  bool Touched(HvaRange range, uint64_t first) const ABSL_LOCKS_EXCLUDED(mutex_);
  EventCounts Counts() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  uint64_t FirstKept(uint64_t first) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  HostEventSink* sink_ = nullptr;
  // Guards: the ring and the counts. Order: innermost; held for a copy, never across a call.
  mutable absl::Mutex mutex_;
  std::vector<HostEvent> ring_ ABSL_GUARDED_BY(mutex_);
  uint64_t end_ ABSL_GUARDED_BY(mutex_) = 0;
  EventCounts counts_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_EVENT_LOG_H_
