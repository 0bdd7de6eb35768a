#include "vmm/cli/end_signals.h"

#include <pthread.h>
#include <unistd.h>

#include <utility>

#include "vmm/base/start_thread.h"
#include "vmm/stats/run_end.h"

namespace underfoot {

EndSignals::EndSignals(std::chrono::milliseconds same_request) : same_request_(same_request) {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGINT);
  sigaddset(&signals_, SIGTERM);
  struct sigaction hangup {};
  const bool ignored = sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler == SIG_IGN;
  if (!ignored) sigaddset(&signals_, SIGHUP);
  struct sigaction ignore {};
  ignore.sa_handler = SIG_IGN;
  static_cast<void>(sigaction(SIGPIPE, &ignore, &pipe_before_));
  // A write beyond `ulimit -f` fails with EFBIG, as one to a full disk fails. The signal would kill
  // the run, and leave the host changed.
  static_cast<void>(sigaction(SIGXFSZ, &ignore, &file_size_before_));
  pthread_sigmask(SIG_BLOCK, &signals_, &before_);
}

absl::StatusOr<std::unique_ptr<EndSignals>> EndSignals::Start(
    std::chrono::milliseconds same_request) {
  std::unique_ptr<EndSignals> signals(new EndSignals(same_request));
  if (absl::Status started = StartThread(signals->thread_, "the signals that end a run",
                                         [raw = signals.get()] { raw->Main(); });
      !started.ok()) {
    return started;
  }
  return signals;
}

EndSignals::~EndSignals() {
  if (thread_.joinable()) {
    stop_.store(true);
    pthread_kill(thread_.native_handle(), SIGTERM);  // sent to that thread only, to wake it
    thread_.join();
  }
  static_cast<void>(sigaction(SIGPIPE, &pipe_before_, nullptr));
  static_cast<void>(sigaction(SIGXFSZ, &file_size_before_, nullptr));
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

void EndSignals::SetAtOnce(std::function<void()> at_once) {
  absl::MutexLock lock(&mutex_);
  at_once_ = std::move(at_once);
}

void EndSignals::TakeRepetitions(int signal) const {
  sigset_t same{};
  sigemptyset(&same);
  sigaddset(&same, signal);
  using Clock = std::chrono::steady_clock;
  const Clock::time_point end = Clock::now() + same_request_;
  for (Clock::time_point now = Clock::now(); now < end && !stop_.load(); now = Clock::now()) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(end - now);
    const timespec limit = {seconds.count(), std::chrono::nanoseconds(end - now - seconds).count()};
    static_cast<void>(sigtimedwait(&same, nullptr, &limit));
  }
}

void EndSignals::Main() {
  pthread_setname_np(pthread_self(), "end-signals");
  for (int signal = 0; sigwait(&signals_, &signal) == 0 && !stop_.load();) {
    if (count_.fetch_add(1, std::memory_order_relaxed) + 1 < 2) {
      TakeRepetitions(signal);
      if (stop_.load()) return;
      continue;
    }
    // From here on the default action applies: a signal ends the process.
    pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
    absl::MutexLock lock(&mutex_);
    if (at_once_ != nullptr) at_once_();
    _exit(ExitCodeOf(RunEnd::kUnfinished));
  }
}

}  // namespace underfoot
