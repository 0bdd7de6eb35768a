// The attached ranges: who is told, until when, and who is not.

#include "vmm/hooks/attachments.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "tests/hooks/told.h"
#include "tests/support/wait_until.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

underfoot_range RangeLike(const Told& told) {
  underfoot_range range{};
  range.start = told.At(0);
  range.length = kPageSize;
  range.fd = -1;
  range.begin = [](void*, underfoot_change*) {};
  range.end = [](void*, underfoot_change*) {};
  return range;
}

TEST(AttachmentsTest, WhatCannotBeAttachedIsRefused) {
  const Told told(1);
  uint64_t handle = 0;
  underfoot_range range = RangeLike(told);
  range.length = 0;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(told);
  range.start = static_cast<char*>(range.start) + 1;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(told);
  range.end = nullptr;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(told);
  range.fd = 9999;
  EXPECT_EQ(hooks::Attach(range, &handle), EBADF);
  EXPECT_EQ(hooks::Detach(12345 * UNDERFOOT_MAX_RANGES), ENOENT);
}

TEST(AttachmentsTest, ThereIsRoomForSoManyAndThenAgain) {
  std::vector<std::unique_ptr<Told>> all;
  for (int i = 0; i < UNDERFOOT_MAX_RANGES; ++i) all.push_back(std::make_unique<Told>(1));
  uint64_t handle = 0;
  EXPECT_EQ(hooks::Attach(RangeLike(*all[0]), &handle), ENOSPC);
  for (const auto& told : all) EXPECT_EQ(hooks::Madvise(told->At(0), kPageSize, MADV_DONTNEED), 0);
  for (const auto& told : all) EXPECT_EQ(told->Take().size(), 1u);
  all.pop_back();
  Told again(1);
  EXPECT_EQ(hooks::Madvise(again.At(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(again.Take().size(), 1u);
}

TEST(AttachmentsTest, NobodyIsToldOfWhatLiesBeside) {
  const Told outer(8);
  uint64_t handle = 0;
  static std::atomic<int> begins{0};
  underfoot_range range = RangeLike(outer);
  range.start = outer.At(3);
  range.begin = [](void*, underfoot_change*) { ++begins; };
  ASSERT_EQ(hooks::Attach(range, &handle), 0);
  EXPECT_EQ(hooks::Madvise(outer.At(0), 3 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(hooks::Madvise(outer.At(4), 4 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(begins, 0);
  EXPECT_EQ(hooks::Madvise(outer.At(2), 2 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(begins, 1);
  EXPECT_EQ(hooks::Detach(handle), 0);
}

// The call stands in its begin when the range is detached.
TEST(AttachmentsTest, ADetachWaitsForTheCallsInside) {
  auto told = std::make_unique<Told>(1);
  std::atomic<bool> inside{false};
  std::atomic<bool> go{false};
  std::atomic<bool> ended{false};
  std::atomic<bool> detached{false};
  told->at_begin = [&](const underfoot_change&) {
    inside = true;
    EXPECT_TRUE(WaitUntil([&] { return go.load(); }));
    // A detach that does not wait has the time to return, or to be on its way.
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    EXPECT_FALSE(detached);
  };
  told->at_end = [&](const underfoot_change&) { ended = true; };
  std::thread caller([&] { hooks::Madvise(told->At(0), kPageSize, MADV_DONTNEED); });
  ASSERT_TRUE(WaitUntil([&] { return inside.load(); }));
  std::thread detacher([&] {
    told.reset();
    EXPECT_TRUE(ended);
    detached = true;
  });
  go = true;
  caller.join();
  detacher.join();
}

TEST(AttachmentsTest, AForksChildHasNothingAttached) {
  Told told(1);
  told.Word(0) = 1;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool quiet = hooks::Madvise(told.At(0), kPageSize, MADV_DONTNEED) == 0;
    quiet = quiet && told.Take().empty() && told.Word(0) == 0;
    // It may attach ranges of its own.
    uint64_t handle = 0;
    quiet = quiet && hooks::Attach(RangeLike(told), &handle) == 0 && hooks::Detach(handle) == 0;
    _exit(quiet ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(told.Word(0), 1u);
  EXPECT_EQ(hooks::Madvise(told.At(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(told.Take().size(), 1u);
}

TEST(AttachmentsTest, RangesComeAndGoWhileOthersCall) {
  Told told(1);
  std::atomic<bool> stop{false};
  std::atomic<bool> called{false};
  std::thread caller([&] {
    while (!stop) {
      hooks::Madvise(told.At(0), kPageSize, MADV_DONTNEED);
      called = true;
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return called.load(); }));
  for (int i = 0; i < 2000; ++i) {
    uint64_t handle = 0;
    ASSERT_EQ(hooks::Attach(RangeLike(told), &handle), 0);
    ASSERT_EQ(hooks::Detach(handle), 0);
  }
  stop = true;
  caller.join();
  EXPECT_FALSE(told.Take().empty());
}

}  // namespace
}  // namespace underfoot::testing
