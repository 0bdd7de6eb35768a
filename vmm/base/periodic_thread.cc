#include "vmm/base/periodic_thread.h"

#include "vmm/base/monotonic.h"

namespace underfoot {

void PeriodicThread::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

bool PeriodicThread::Sleep(absl::Duration pause) {
  absl::MutexLock lock(&mutex_);
  return !AwaitFor(mutex_, absl::Condition(&stop_), pause);
}

}  // namespace underfoot
