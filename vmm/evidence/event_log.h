// The most recent events of all sources, in the order of their arrival, for people: GET /v1/events
// and `underfoot events` show them. Nothing that has to be correct reads them; what the sources
// have to know of each other is in the other classes of this folder.
//
//   sources ──Report──► ring of kCapacity, numbered from 0 ──► Since(number): what came after
//                         └──► one more sink, called for each event before Report returns
//
// A reader that falls behind by more events than the ring holds finds a gap in the event numbers.
// No source waits for a reader.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_EVENT_LOG_H_
#define UNDERFOOT_VMM_EVIDENCE_EVENT_LOG_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {

struct NumberedEvent {
  uint64_t number = 0;
  HostEvent event;
};

class EventLog final : public HostEventSink {
 public:
  static constexpr size_t kCapacity = 16384;

  // `sink` receives every event, while no lock is held; nullptr: events are only kept.
  explicit EventLog(HostEventSink* sink = nullptr)
      : sink_(sink), ring_(std::make_unique_for_overwrite<Place[]>(kCapacity)) {}

  void Report(const HostEvent& event) override ABSL_LOCKS_EXCLUDED(mutex_);

  // The number that the next event will get.
  uint64_t end() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns at most `most` events: those with a number >= `first` that the ring still holds.
  std::vector<NumberedEvent> Since(uint64_t first, size_t most) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // Room for an event. Memory of a place that no event has reached yet is never touched.
  union Place {
    Place() {}
    HostEvent event;
  };

  uint64_t FirstKept(uint64_t first) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  HostEventSink* const sink_;
  // Guards: the ring. Order: innermost. It is held while events are copied, and never across a
  // call.
  mutable absl::Mutex mutex_;
  std::unique_ptr<Place[]> ring_ ABSL_GUARDED_BY(mutex_);
  uint64_t end_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_EVENT_LOG_H_
