// A second thread on the second CPU, which does one thing over and over while another thread is
// measured.
//
// Thread safety: Work is made and ended by one thread; the step runs on the partner's.

#ifndef UNDERFOOT_TESTS_BENCH_PARTNER_H_
#define UNDERFOOT_TESTS_BENCH_PARTNER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

namespace underfoot::bench {

class Partner {
 public:
  // Sleeps on `cpu` until there is work.
  explicit Partner(int cpu);
  ~Partner();
  Partner(const Partner&) = delete;
  Partner& operator=(const Partner&) = delete;

  class Work {
   public:
    // Returns when the first step has been done.
    Work(Partner& partner, std::function<void()> step);
    // Returns when the last step has ended.
    ~Work();
    Work(const Work&) = delete;
    Work& operator=(const Work&) = delete;

    uint64_t steps() const { return partner_.steps_.load(std::memory_order::acquire); }
    void WaitForSteps(uint64_t more) const;

   private:
    Partner& partner_;
  };

 private:
  enum class State : uint32_t { kIdle, kWorking, kEnding };

  void Main(int cpu);

  std::function<void()> step_;
  // Hands step_ over. Pairs with: each other's loads. Without it: a step runs while it is replaced.
  std::atomic<State> wanted_{State::kIdle};
  std::atomic<State> current_{State::kIdle};
  // A line of its own: the partner writes it all the time.
  alignas(64) std::atomic<uint64_t> steps_{0};
  alignas(64) std::thread thread_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_PARTNER_H_
