// Turns the signals HUP, INT and TERM into requests to end the run.
//
//   first    Count() is 1: the run ends in order. The same signal within the next 50 ms is the same
//            request: timeout(1) sends its signal to the program, and again to its process group, and
//            a terminal or a cgroup may have sent it to both of them
//   second   the process ends at once, from the thread of this object: `at_once` is called first
//   third    the kernel ends the process, should `at_once` hang
//
// A HUP that was ignored before (nohup) stays ignored. PIPE and XFSZ are ignored: a reader that goes
// away, or a file that may not grow (`ulimit -f`), does not end the run.
//
// Thread safety: the main thread constructs it before it starts other threads, which inherit the
// signal mask, and destroys it after they have ended.

#ifndef UNDERFOOT_VMM_CLI_END_SIGNALS_H_
#define UNDERFOOT_VMM_CLI_END_SIGNALS_H_

#include <signal.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace underfoot {

class EndSignals {
 public:
  // ResourceExhausted: the host has no room for its thread. Then the signals are as before.
  // `same_request`: how long the same signal still belongs to the first request.
  static absl::StatusOr<std::unique_ptr<EndSignals>> Start(
      std::chrono::milliseconds same_request = std::chrono::milliseconds(50));
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // The number of requests that have arrived.
  int Count() const { return count_.load(std::memory_order_relaxed); }

  // Sets the function that is called before the process ends at once. Returns when no call of the
  // previous function is in progress.
  void SetAtOnce(std::function<void()> at_once) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  explicit EndSignals(std::chrono::milliseconds same_request);
  void Main();
  // Takes the same signal again and again, as long as it is still the same request.
  void TakeRepetitions(int signal) const;

  const std::chrono::milliseconds same_request_;
  sigset_t signals_{};
  sigset_t before_{};
  struct sigaction pipe_before_ {};
  struct sigaction file_size_before_ {};
  std::atomic<int> count_{0};
  std::atomic<bool> stop_{false};
  // Guards: the action at the second signal. Order: outermost. It is held during the action.
  absl::Mutex mutex_;
  std::function<void()> at_once_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_END_SIGNALS_H_
