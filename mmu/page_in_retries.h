// A bounded number of retries for a caller whose page source answers kAgain and that cannot put the
// work back into a queue (R3). The caller retries after a pause, which becomes longer each time, up
// to one millisecond. In most cases it waits for an event that the thread that reads userfaultfd is
// about to read. If that thread has run out of file descriptors, the event may never be read;
// therefore the number of retries has a limit.
//
// Units: the limit counts page-ins. The default is about two seconds.
// Thread safety: one thread. Pause sleeps, so the caller must hold no section, no bracket over the
// page, and no lock but the refresh_mutex_ of a pfn cache, under which look-ups may sleep anyway.

#ifndef UNDERFOOT_MMU_PAGE_IN_RETRIES_H_
#define UNDERFOOT_MMU_PAGE_IN_RETRIES_H_

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace underfoot {

class PageInRetries {
 public:
  // About two seconds.
  static constexpr unsigned kMost = 2000;

  // `tries` is the number of page-ins in all, including the first one.
  explicit PageInRetries(unsigned tries = kMost) : tries_(tries) {}

  // The caller calls Pause after a page-in that ended with kAgain. Pause returns true after a
  // pause: the caller makes another page-in. It returns false at once if the limit is reached.
  [[nodiscard]] bool Pause() {
    if (++made_ >= tries_) return false;
    if (made_ <= kYields) {
      sched_yield();
      return true;
    }
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(2 * pause_, kLongest);
    return true;
  }

 private:
  static constexpr unsigned kYields = 4;
  static constexpr std::chrono::microseconds kLongest{1000};

  const unsigned tries_;
  unsigned made_ = 0;
  std::chrono::microseconds pause_{50};
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PAGE_IN_RETRIES_H_
