// Events that stand unread at a userfaultfd while no thread serves it, and the threads that wait
// there.

#ifndef UNDERFOOT_TESTS_MEMORY_PENDING_EVENT_H_
#define UNDERFOOT_TESTS_MEMORY_PENDING_EVENT_H_

#include <functional>
#include <thread>

#include "tests/memory/memory_side.h"

namespace underfoot::testing {

// True when something waits to be read.
bool SomethingIsPending(const Userfaultfd& uffd);

// How many faults wait to be read. Events do not count.
uint64_t PendingFaults(const Userfaultfd& uffd);

// Reads one event that is no fault. False when none comes.
[[nodiscard]] bool ReadOneEvent(Userfaultfd& uffd);

// A raw madvise on a thread of its own that stands in the call until its event is read.
class PendingMadvise {
 public:
  PendingMadvise(const Userfaultfd& uffd, HvaRange range, int advice);
  ~PendingMadvise() { Join(); }
  PendingMadvise(const PendingMadvise&) = delete;
  PendingMadvise& operator=(const PendingMadvise&) = delete;

  // False when no event came.
  bool pending() const { return pending_; }
  // The call has returned.
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
  bool pending_ = false;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_PENDING_EVENT_H_
