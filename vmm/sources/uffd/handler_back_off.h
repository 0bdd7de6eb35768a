// When one of several handlers does not listen to userfaultfd. A fault wakes every handler that
// listens, and one of them gets its message. For the others it is a spurious wake-up: a handler on a
// CPU that was idle costs the faulting thread an interrupt to that CPU, about as long as the whole
// fault takes on its own CPU; a handler on a busy CPU takes a moment of it.
//
// After several spurious wake-ups in a row a handler backs off: it does not listen for a millisecond,
// then for twice as long each time, up to eight milliseconds, until it gets a message again. After
// each back-off it listens for as many spurious wake-ups again. So a vCPU that moves to another CPU,
// or that begins to fault, has the handler of its CPU after a few milliseconds; until then another
// handler serves it. If no thread faults, no handler is woken.
//
// A handler whose CPU takes longer to wake than the other one takes for the fault does not notice
// that it was woken: poll finds nothing any more and goes on. Such a handler does not back off.
//
// One handler always listens: the last one does not back off. If it is busy, the others come back
// after at most eight milliseconds.
//
//   handler of the vCPU's CPU      the other handler
//   listens                        listens
//   message, message, ...          4 spurious wake-ups
//   message, message, ...          backs off for 1 ms; 4 spurious wake-ups
//   message, message, ...          backs off for 2 ms; ...
//
// Thread safety: `listening` is shared by the handlers; all else belongs to one thread.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_BACK_OFF_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_BACK_OFF_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>

#include "mmu/base/ordering.h"

namespace underfoot {

class HandlerBackOff {
 public:
  static constexpr unsigned kSpuriousWakeUps = 4;
  static constexpr int64_t kFirstNs = 1'000'000;
  static constexpr int64_t kLongestNs = 8'000'000;

  // While it exists it listens or backs off. `listening`: how many handlers listen.
  // Relaxed, here and below: the count decides only who listens. In the order of its changes it is
  // never 0 while a handler exists.
  explicit HandlerBackOff(std::atomic<unsigned>& listening) : listening_(listening) {
    listening_.fetch_add(1, kRelaxed);
  }
  ~HandlerBackOff() {
    if (!backs_off()) listening_.fetch_sub(1, kRelaxed);
  }
  HandlerBackOff(const HandlerBackOff&) = delete;
  HandlerBackOff& operator=(const HandlerBackOff&) = delete;

  bool backs_off() const { return until_ns_.has_value(); }
  // When it listens again; empty: it listens.
  std::optional<int64_t> until_ns() const { return until_ns_; }

  void FoundMessage() {
    spurious_ = 0;
    wait_ns_ = kFirstNs;
  }
  // Userfaultfd had something to read, and another handler has read it. Returns whether this handler
  // now backs off.
  bool WokenSpuriously(int64_t now_ns) {
    if (backs_off() || ++spurious_ < kSpuriousWakeUps || !LeaveToOthers()) return false;
    spurious_ = 0;
    until_ns_ = now_ns + wait_ns_;
    wait_ns_ = std::min(2 * wait_ns_, kLongestNs);
    return true;
  }
  void Listen() {
    if (!backs_off()) return;
    until_ns_.reset();
    listening_.fetch_add(1, kRelaxed);
  }

 private:
  bool LeaveToOthers() {
    for (unsigned count = listening_.load(kRelaxed); count > 1;) {
      if (listening_.compare_exchange_weak(count, count - 1, kRelaxed, kRelaxed)) return true;
    }
    return false;
  }

  std::atomic<unsigned>& listening_;
  std::optional<int64_t> until_ns_;
  unsigned spurious_ = 0;
  int64_t wait_ns_ = kFirstNs;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_BACK_OFF_H_
