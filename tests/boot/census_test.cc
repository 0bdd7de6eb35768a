#include "vmm/machine/census.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CensusTest : public ::testing::Test {
 protected:
  // With the first thread comes one of a sanitizer's own, which stays.
  static void SetUpTestSuite() {
    std::thread([] {}).join();
  }
};

TEST_F(CensusTest, AThreadThatWasJoinedIsNotLeftBehind) {
  for (int i = 0; i < 1000; ++i) {
    const Census before = Census::Take();
    std::thread([] {}).join();
    ASSERT_THAT(LeftBehind(before), IsEmpty());
  }
}

TEST_F(CensusTest, ALeakIsCountedByItsKind) {
  const Census before = Census::Take();
  absl::Notification end;
  std::thread thread([&] { end.WaitForNotification(); });
  {
    const UniqueFd first(eventfd(0, EFD_CLOEXEC));
    const UniqueFd second(eventfd(0, EFD_CLOEXEC));
    EXPECT_THAT(LeftBehind(before, absl::Milliseconds(5)),
                ElementsAre("2 file descriptors were left open", "1 threads were left running"));
  }
  end.Notify();
  thread.join();
  EXPECT_THAT(LeftBehind(before), IsEmpty());
}

}  // namespace
}  // namespace underfoot::testing
