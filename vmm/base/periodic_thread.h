// A thread that repeats its work until its owner stops it.
//
// Thread safety: Start and Stop belong to the owner. Only the body calls Sleep.

#ifndef UNDERFOOT_VMM_BASE_PERIODIC_THREAD_H_
#define UNDERFOOT_VMM_BASE_PERIODIC_THREAD_H_

#include <string_view>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "vmm/base/start_thread.h"

namespace underfoot {

class PeriodicThread {
 public:
  PeriodicThread() = default;
  ~PeriodicThread() { Stop(); }
  PeriodicThread(const PeriodicThread&) = delete;
  PeriodicThread& operator=(const PeriodicThread&) = delete;

  // `what` names the thread in the error message. `body` returns soon after Sleep has returned
  // false.
  template <class Body>
  [[nodiscard]] absl::Status Start(std::string_view what, Body&& body) {
    return StartThread(thread_, what, std::forward<Body>(body));
  }
  // Ends the thread and waits for it. Without effect if no thread runs.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits for `pause`. Returns false, without further delay, if Stop was called.
  [[nodiscard]] bool Sleep(absl::Duration pause) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  std::thread thread_;
  // Guards: the request to end. Order: innermost.
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_PERIODIC_THREAD_H_
