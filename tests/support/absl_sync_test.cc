// In the TSan lane this proves that the wrappers around absl announce the order; elsewhere it
// passes.

#include <absl/synchronization/mutex.h>
#include <absl/synchronization/notification.h>
#include <absl/time/time.h>
#include <gtest/gtest.h>

#include <thread>

namespace underfoot::testing {
namespace {

struct Guarded {
  absl::Mutex mutex;
  absl::CondVar changed;
  int value ABSL_GUARDED_BY(mutex) = 0;
};

TEST(AbslSyncTest, ALockOrdersWritesAndReads) {
  Guarded guarded;
  auto write = [&] {
    for (int i = 0; i < 1000; ++i) {
      absl::MutexLock lock(&guarded.mutex);
      ++guarded.value;
    }
  };
  std::thread one(write);
  std::thread two(write);
  std::thread reader([&] {
    for (int i = 0; i < 1000; ++i) {
      absl::ReaderMutexLock lock(&guarded.mutex);
      EXPECT_GE(guarded.value, 0);
    }
  });
  one.join();
  two.join();
  reader.join();
  absl::MutexLock lock(&guarded.mutex);
  EXPECT_EQ(guarded.value, 2000);
}

TEST(AbslSyncTest, AConditionVariableOrdersTheWakerBeforeTheWaiter) {
  Guarded guarded;
  std::thread waker([&] {
    absl::MutexLock lock(&guarded.mutex);
    guarded.value = 1;
    guarded.changed.SignalAll();
  });
  {
    absl::MutexLock lock(&guarded.mutex);
    while (guarded.value == 0) {
      guarded.changed.WaitWithTimeout(&guarded.mutex, absl::Seconds(1));
    }
    guarded.value = 2;
  }
  waker.join();
}

TEST(AbslSyncTest, AConditionIsEvaluatedUnderTheLock) {
  Guarded guarded;
  std::thread waker([&] {
    for (int i = 0; i < 100; ++i) {
      absl::MutexLock lock(&guarded.mutex);
      ++guarded.value;
    }
  });
  {
    absl::MutexLock lock(&guarded.mutex);
    guarded.mutex.Await(absl::Condition(
        +[](int* value) { return *value == 100; }, &guarded.value));
    guarded.value = 0;
  }
  waker.join();
}

TEST(AbslSyncTest, ANotificationOrdersTheNotifierBeforeTheWaiter) {
  absl::Notification ready;
  int value = 0;
  std::thread notifier([&] {
    value = 1;
    ready.Notify();
  });
  ready.WaitForNotification();
  EXPECT_EQ(value, 1);
  value = 2;
  notifier.join();
}

}  // namespace
}  // namespace underfoot::testing
