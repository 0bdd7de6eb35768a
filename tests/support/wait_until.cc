#include "tests/support/wait_until.h"

#include <thread>

namespace underfoot::testing {

bool WaitUntil(const std::function<bool()>& predicate, std::chrono::milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  // Yields at first, since most conditions are microseconds away; then lets the other threads run.
  int asked = 0;
  while (!predicate()) {
    if (std::chrono::steady_clock::now() >= end) return predicate();
    if (++asked < 1000) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
  return true;
}

}  // namespace underfoot::testing
