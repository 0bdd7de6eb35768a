// The thread of one queue, as vhost has it: it sleeps until the driver notifies the queue, serves
// what is available, several requests at a time (RequestBatch), and asks for the next notification.
//
// A request for which the backend has nothing yet (Served::later) stays with the worker, which sleeps
// until it is woken and then serves it again. The requests behind it wait.
//
//   1. Start        the thread runs and sleeps. It holds no ring
//   2. Run          orders it to serve a ring
//   3. Quiesce      orders it to let go of the ring. It ends the step of the request that it is in
//                   first, which may take as long as a system call; quiet() is true afterwards
//   4. RequestStop, Stop   end the thread: a flag and the eventfd, never a signal. A worker whose file
//                   does not answer cannot be ended. Stop then returns false; the owner leaves the
//                   thread behind, with everything that it uses
//
// Without memory a step is put off and made again, up to kMostShortages times in a row. After that
// the device needs a reset.
//
// Steps 2 and 3 repeat. They return at once, so that a vCPU never waits for a worker; the driver
// reads in the registers when the worker is quiet.
//
// Thread safety: Start and Stop by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_QUEUE_WORKER_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_QUEUE_WORKER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/direct_requests.h"
#include "mmu/mmu.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/request_batch.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot::virtio {

class QueueWorker {
 public:
  static constexpr unsigned kMostShortages = 1000;

  // Called by the worker's thread, which holds nothing.
  struct Sinks {
    std::function<void()> interrupt;
    std::function<void()> broken;  // the worker serves nothing more until it is quiet again
  };

  // `queue`: its number, for the backend.
  QueueWorker(const Virtqueue::Parts& parts, Backend& backend, uint16_t queue,
              const std::string& name, Sinks sinks);
  ~QueueWorker() { static_cast<void>(Stop()); }
  QueueWorker(const QueueWorker&) = delete;
  QueueWorker& operator=(const QueueWorker&) = delete;

  [[nodiscard]] absl::Status Start();
  void RequestStop() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns false if the thread has not ended within `patience`. It may be called again.
  [[nodiscard]] bool Stop(absl::Duration patience = absl::InfiniteDuration())
      ABSL_LOCKS_EXCLUDED(mutex_);

  void Run(const RingLayout& layout, uint64_t features) ABSL_LOCKS_EXCLUDED(mutex_);
  void Quiesce() ABSL_LOCKS_EXCLUDED(mutex_);
  // No ring is held, and none is ordered.
  bool quiet() const ABSL_LOCKS_EXCLUDED(mutex_);

  // The eventfd that a notification of the driver increments; valid after Start.
  int kick_fd() const { return kick_.get(); }
  void Kick() const;
  // As Kick, and not counted as the driver's: by the backend, and by the owner's orders.
  void Wake();

  const std::string& name() const { return name_; }
  const Virtqueue& queue() const { return queue_; }
  const QueueCounters& counters() const { return counters_; }

 private:
  struct Order {
    RingLayout layout;
    uint64_t features = 0;
  };

  void Main();
  void ServeRing();
  // The next step of the requests that were taken, or of the ring if there are none. If it throws
  // std::bad_alloc, the same step comes next.
  QueueOutcome Step();
  QueueOutcome StepOrShortage();
  QueueOutcome TakeOrSleep();
  std::optional<Order> WaitForOrder() ABSL_LOCKS_EXCLUDED(mutex_);
  void NoteQuiet() ABSL_LOCKS_EXCLUDED(mutex_);
  void WaitForKick();
  void PutOff();
  void BeBroken();

  const Virtqueue::Parts parts_;
  const std::string name_;
  const Sinks sinks_;
  Virtqueue queue_;
  QueueCounters counters_;
  DirectRequest direct_;
  // These are the thread's.
  RequestBatch batch_;
  unsigned shortages_in_a_row_ = 0;
  absl::Duration pause_;          // of the next PutOff
  std::optional<Reader> reader_;  // from Start to Stop
  UniqueFd kick_;
  std::thread thread_;
  // Set with an order to let go or to end, so that the worker takes the mutex only if there is one.
  // Pairs with: ServeRing. Without it: the worker serves a ring that it was ordered to let go of.
  std::atomic<bool> attention_{false};
  std::atomic<uint64_t> own_wakes_{0};  // relaxed: for the count of kicks

  // Guards: the order, and whether the worker works on one. Order: after the lock of its device.
  // Held across: nothing.
  mutable absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::optional<Order> order_ ABSL_GUARDED_BY(mutex_);
  bool working_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_QUEUE_WORKER_H_
