// The kernel's rule for memslot updates: invalidations are counted, and an update waits until the
// count is 0. Nothing keeps new ones from beginning meanwhile.
//
// Thread safety: any thread.
// After: mn_active_invalidate_count in Linux.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_COUNTED_BRACKETS_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_COUNTED_BRACKETS_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace underfoot::bench {

class CountedBrackets {
 public:
  void Begin() {
    const std::lock_guard lock(mutex_);
    ++active_;
    if (++begun_ == give_up_at_) changed_.notify_one();
  }
  void End() {
    const std::lock_guard lock(mutex_);
    if (--active_ == 0) changed_.notify_one();
  }

  // False: `patience` brackets have begun meanwhile, and the count was 0 at no time that it looked.
  [[nodiscard]] bool Update(uint64_t patience) {
    std::unique_lock lock(mutex_);
    give_up_at_ = begun_ + patience;
    changed_.wait(lock, [this] { return active_ == 0 || begun_ >= give_up_at_; });
    return active_ == 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t active_ = 0;
  uint64_t begun_ = 0;
  uint64_t give_up_at_ = 0;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_COUNTED_BRACKETS_H_
