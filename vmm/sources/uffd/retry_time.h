// The time of the next attempt of a deferred fault: 50 us after the first attempt, then after twice
// as long each time, up to a millisecond. Nothing else changes this time. In particular, a message
// that arrives does not make the attempt come earlier. A fault that was deferred because of an
// event (EAGAIN) must wait until the removing thread runs again, a moment after the event was read
// (`./dev bench --filter=discard.eagain`); an attempt at each message would always come too early.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_RETRY_TIME_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_RETRY_TIME_H_

#include <algorithm>
#include <cstdint>

namespace underfoot {

class RetryTime {
 public:
  static constexpr int64_t kFirstNs = 50'000;
  static constexpr int64_t kLongestNs = 1'000'000;

  void PutOff(int64_t now_ns) {
    due_ns_ = now_ns + wait_ns_;
    wait_ns_ = std::min(2 * wait_ns_, kLongestNs);
  }
  int64_t due_ns() const { return due_ns_; }

 private:
  int64_t due_ns_ = 0;
  int64_t wait_ns_ = kFirstNs;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_RETRY_TIME_H_
