// The requests that a worker has taken at once, at most Virtqueue::kMaxBatch, on their way to the used
// ring.
//
//   Take    chains off the ring; their first readable bytes, in one section     fetched
//   Step    the next request by the backend, which holds nothing                staged: what it writes
//           at every kCopyAt bytes, and at the end: into guest memory,
//           in sections                                                         copied
//   Step    used elements, one index, one interrupt decision                    published
//
// A section contains the copies of several requests and nothing else (GuestAccess::TryCopy has its
// bounds). No section is open while the backend works. A page without a translation is brought in
// outside of any section, and that request is copied by itself.
//
// A request that is answered does not wait for one that may wait for long: the backend announces that
// (Request::BeforeWait), and what is answered is published first. Requests are published in the order
// in which they were taken.
//
// If a ring cache is dropped in the middle, the step that needs it is made again, with the same
// answers. If a staged page cannot be brought in at all, its request is served once more with nothing
// staged, so that the backend finds the error. For a backend that cannot serve a request twice nothing
// is staged, and each answer is published at once.
//
// Thread safety: the worker's thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_REQUEST_BATCH_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_REQUEST_BATCH_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "mmu/direct_requests.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/page_buffer.h"
#include "vmm/devices/virtio/staged_copies.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot::virtio {

class RequestBatch {
 public:
  struct Parts {
    const Virtqueue::Parts& machine;
    Virtqueue& queue;
    Backend& backend;
    DirectRequest& direct;
    QueueCounters& counters;
    const std::atomic<bool>& let_go;  // see Request::abandoned
    uint16_t number = 0;              // of the queue
    std::function<void()> interrupt;
  };
  explicit RequestBatch(Parts parts) : parts_(std::move(parts)) {}

  bool empty() const { return count_ == 0; }
  // Forgets requests that will get no answer: the worker begins with a ring.
  void Drop() {
    count_ = 0;
    waits_ = false;
    parts_.backend.RingBegins(parts_.number);
  }

  // Only if it is empty. The outcomes are those of Virtqueue::Pop.
  QueueOutcome Take(Reader& reader);
  // The next step of the requests. kEmpty: the backend has nothing for the next one yet (Served::later),
  // and what is answered is published. kAway: the ring cannot be reached now. kBroken: a request cannot
  // be answered, or the ring is lost for good. If it throws std::bad_alloc, the same step comes next.
  QueueOutcome Step(Reader& reader);

 private:
  // Readable parts up to this size are fetched whole; of a longer one, what a header may need.
  static constexpr size_t kMostFetched = size_t{8} << 10;
  static constexpr size_t kLeastFetched = 64;
  // Staged bytes are copied while they are in the nearest cache.
  static constexpr size_t kCopyAt = size_t{16} << 10;

  struct Job {
    std::span<const std::byte> fetched;
    size_t copies_end = 0;  // in staged_, of this job and all before it
    Served served;
  };

  void Fetch(Reader& reader);
  Request RequestOf(Reader& reader, size_t number, PageBuffer& scratch, bool waited = false);
  // False: the request is to be served again later.
  bool Serve(Reader& reader);
  void ServeUnstaged(Reader& reader, size_t number);
  size_t TryCopy(Reader& reader, size_t end);
  QueueOutcome FinishServed(Reader& reader);
  void CopyByItself(Reader& reader, size_t number);
  QueueOutcome Publish(Reader& reader);
  bool WantsInterrupt(Reader& reader);
  size_t CopiesBefore(size_t job) const { return job == 0 ? 0 : jobs_[job - 1].copies_end; }
  // How many of the requests that are served have an answer: one that has none ends the ring.
  size_t Answered() const;

  const Parts parts_;
  std::array<Chain, Virtqueue::kMaxBatch> chains_;
  std::array<Job, Virtqueue::kMaxBatch> jobs_;  // of the chain with the same index
  size_t count_ = 0;
  size_t served_ = 0;            // of count_
  size_t copied_ = 0;            // of served_
  size_t published_ = 0;         // of copied_
  bool waits_ = false;           // the backend has put the next request off (Served::later)
  bool may_serve_again_ = true;  // the backend, each of these requests
  StagedCopies fetched_;
  StagedCopies staged_;
  PageBuffer scratch_;
  PageBuffer unstaged_scratch_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_REQUEST_BATCH_H_
