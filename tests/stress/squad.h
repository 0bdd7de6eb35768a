// A squad of threads that do their work over and over until the time is up.
//
// UNDERFOOT_STRESS_MS says how long each stress test runs; the default keeps ./dev check short.

#ifndef UNDERFOOT_TESTS_STRESS_SQUAD_H_
#define UNDERFOOT_TESTS_STRESS_SQUAD_H_

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/random.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {

inline std::chrono::milliseconds StressTime() {
  const char* text = std::getenv("UNDERFOOT_STRESS_MS");
  return std::chrono::milliseconds(text == nullptr ? 1000 : std::atoi(text));
}

class Squad {
 public:
  // What a thread does until Stopped(). Its stream of random numbers is its own.
  using Work = std::function<void(Random&)>;

  void Add(Work work) { works_.push_back(std::move(work)); }

  bool Stopped() const { return stop_.load(std::memory_order::relaxed); }
  // Ends the run early: an oracle has spoken.
  void Stop() { stop_.store(true, std::memory_order::relaxed); }

  // Until the time is up and the oracles have seen enough; on a starved machine that takes longer,
  // and after a deadline it is over. Returns whether it was enough.
  [[nodiscard]] bool Run(const std::function<bool()>& enough) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < works_.size(); ++i) {
      threads.emplace_back([this, i] {
        Random random(i + 1);
        works_[i](random);
      });
    }
    static_cast<void>(WaitUntil([this] { return Stopped(); }, StressTime()));
    static_cast<void>(WaitUntil([&] { return Stopped() || enough(); }));
    Stop();
    for (std::thread& thread : threads) thread.join();
    return enough();
  }

 private:
  std::vector<Work> works_;
  std::atomic<bool> stop_{false};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_STRESS_SQUAD_H_
