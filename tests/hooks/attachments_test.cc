// The attached ranges: which of them a call is reported to, and until when.

#include "vmm/hooks/attachments.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/hooks/recorded_changes.h"
#include "tests/support/wait_until.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

underfoot_range RangeLike(const RecordedChanges& recorded) {
  underfoot_range range{};
  range.start = recorded.At(0);
  range.length = kPageSize;
  range.fd = -1;
  range.begin = [](void*, underfoot_change*) {};
  range.end = [](void*, underfoot_change*) {};
  return range;
}

TEST(AttachmentsTest, WhatCannotBeAttachedIsRefused) {
  const RecordedChanges recorded(1);
  uint64_t handle = 0;
  underfoot_range range = RangeLike(recorded);
  range.length = 0;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(recorded);
  range.start = static_cast<char*>(range.start) + 1;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(recorded);
  range.end = nullptr;
  EXPECT_EQ(hooks::Attach(range, &handle), EINVAL);
  range = RangeLike(recorded);
  range.fd = 9999;
  EXPECT_EQ(hooks::Attach(range, &handle), EBADF);
  EXPECT_EQ(hooks::Detach(12345 * UNDERFOOT_MAX_RANGES), ENOENT);
}

// Each counts its own begins.
struct Counted {
  std::atomic<int> begins{0};
  std::atomic<int> ends{0};
  uint64_t handle = 0;

  int Attach(void* start, uint64_t length, unsigned flags = 0) {
    underfoot_range range{};
    range.start = start;
    range.length = length;
    range.fd = -1;
    range.context = this;
    range.begin = [](void* self, underfoot_change*) { ++static_cast<Counted*>(self)->begins; };
    range.end = [](void* self, underfoot_change*) { ++static_cast<Counted*>(self)->ends; };
    range.flags = flags;
    return hooks::Attach(range, &handle);
  }
};

// Every second page of a mapping.
TEST(AttachmentsTest, EachOfThousandsOfRangesGetsReportsOfItsOwnChanges) {
  constexpr int kRanges = 2000;
  char* const memory =
      static_cast<char*>(mmap(nullptr, 2 * kRanges * kPageSize, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::vector<Counted> all(kRanges);
  for (int i = 0; i < kRanges; ++i) {
    ASSERT_EQ(all[static_cast<size_t>(i)].Attach(memory + 2 * i * kPageSize, kPageSize), 0);
  }
  for (int i = 0; i < 2 * kRanges; ++i) {
    ASSERT_EQ(hooks::Madvise(memory + i * kPageSize, kPageSize, MADV_DONTNEED), 0);
  }
  for (const Counted& counted : all) ASSERT_EQ(counted.begins, 1);
  // One call over all of them needs more room than there is on the stack.
  ASSERT_EQ(hooks::Madvise(memory, 2 * kRanges * kPageSize, MADV_DONTNEED), 0);
  for (const Counted& counted : all) ASSERT_TRUE(counted.begins == 2 && counted.ends == 2);
  for (const Counted& counted : all) ASSERT_EQ(hooks::Detach(counted.handle), 0);
  ASSERT_EQ(hooks::Munmap(memory, 2 * kRanges * kPageSize), 0);
  for (const Counted& counted : all) ASSERT_EQ(counted.begins, 2);
}

TEST(AttachmentsTest, AChangeBesideARangeIsNotReported) {
  const RecordedChanges outer(8);
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
  auto recorded = std::make_unique<RecordedChanges>(1);
  std::atomic<bool> inside{false};
  std::atomic<bool> go{false};
  std::atomic<bool> ended{false};
  std::atomic<bool> detached{false};
  recorded->at_begin = [&](const underfoot_change&) {
    inside = true;
    EXPECT_TRUE(WaitUntil([&] { return go.load(); }));
    // A detach that does not wait has the time to return, or to be on its way.
    for (int i = 0; i < 1000; ++i) std::this_thread::yield();
    EXPECT_FALSE(detached);
  };
  recorded->at_end = [&](const underfoot_change&) { ended = true; };
  std::thread caller([&] { hooks::Madvise(recorded->At(0), kPageSize, MADV_DONTNEED); });
  ASSERT_TRUE(WaitUntil([&] { return inside.load(); }));
  std::thread detacher([&] {
    recorded.reset();
    EXPECT_TRUE(ended);
    detached = true;
  });
  go = true;
  caller.join();
  detacher.join();
}

TEST(AttachmentsTest, AForksChildHasNothingAttached) {
  RecordedChanges recorded(1);
  recorded.Word(0) = 1;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool quiet = hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED) == 0;
    quiet = quiet && recorded.Take().empty() && recorded.Word(0) == 0;
    // It may attach ranges of its own.
    uint64_t handle = 0;
    quiet = quiet && hooks::Attach(RangeLike(recorded), &handle) == 0 && hooks::Detach(handle) == 0;
    _exit(quiet ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(recorded.Word(0), 1u);
  EXPECT_EQ(hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(recorded.Take().size(), 1u);
}

// The child leaves the callback, the call and the bracket that its parent has entered.
TEST(AttachmentsTest, AForkInsideOfACallbackLeavesTheChildWithoutAnEnd) {
  RecordedChanges recorded(5);
  pid_t child = -1;
  bool forked = false;
  recorded.at_begin = [&](const underfoot_change&) {
    if (forked) return;
    forked = true;
    child = fork();
  };
  bool ended = false;
  recorded.at_end = [&](const underfoot_change&) { ended = true; };
  RecordedChanges beside(1);
  const int result = hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED);
  if (child == 0) {
    // The pins of the parent are none of the child's: it attaches and detaches at once.
    Counted own;
    bool right = result == 0 && !ended && own.Attach(recorded.At(0), kPageSize) == 0;
    right = right && hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED) == 0;
    right = right && own.begins == 1 && own.ends == 1 && hooks::Detach(own.handle) == 0;
    _exit(right ? 0 : 1);
  }
  EXPECT_TRUE(ended);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(AttachmentsTest, AForkIsReportedToRangesThatRequestForks) {
  RecordedChanges silent(1);
  const RecordedChanges memory(1);
  Counted asks;
  ASSERT_EQ(asks.Attach(memory.At(0), kPageSize, UNDERFOOT_TELL_FORK), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(asks.begins == 1 && asks.ends == 0 ? 0 : 1);
  EXPECT_EQ(asks.begins, 1);
  EXPECT_EQ(asks.ends, 1);
  EXPECT_TRUE(silent.Take().empty());
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(hooks::Detach(asks.handle), 0);
}

TEST(AttachmentsTest, RangesComeAndGoWhileOthersCall) {
  RecordedChanges recorded(1);
  std::atomic<bool> stop{false};
  std::atomic<bool> called{false};
  std::thread caller([&] {
    while (!stop) {
      hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED);
      called = true;
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return called.load(); }));
  for (int i = 0; i < 2000; ++i) {
    uint64_t handle = 0;
    ASSERT_EQ(hooks::Attach(RangeLike(recorded), &handle), 0);
    ASSERT_EQ(hooks::Detach(handle), 0);
  }
  stop = true;
  caller.join();
  EXPECT_FALSE(recorded.Take().empty());
}

// Calls inside of ranges that come and go, and between them, on several threads.
TEST(AttachmentsTest, EachBeginHasItsEndWhileManyRangesComeAndGo) {
  constexpr uint64_t kRanges = 64;
  char* const memory = static_cast<char*>(mmap(nullptr, kRanges * kPageSize, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (uint64_t n = 0; n < 2; ++n) {
    callers.emplace_back([&, n] {
      for (uint64_t i = n; !stop; i += 7) {
        hooks::Madvise(memory + i % kRanges * kPageSize, (1 + i % 9) * kPageSize, MADV_COLD);
        hooks::Madvise(memory + i % kRanges * kPageSize, kPageSize, MADV_DONTNEED);
      }
    });
  }
  std::vector<Counted> all(kRanges);
  for (int round = 0; round < 40; ++round) {
    for (uint64_t i = 0; i < kRanges; ++i) {
      ASSERT_EQ(all[i].Attach(memory + i * kPageSize, kPageSize), 0);
    }
    for (Counted& counted : all) {
      ASSERT_EQ(hooks::Detach(counted.handle), 0);
      // From its return on no callback runs.
      ASSERT_EQ(counted.begins, counted.ends);
    }
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(munmap(memory, kRanges * kPageSize), 0);
}

constexpr auto kSideBySide = hooks::MappingCalls::kSideBySide;
constexpr auto kInTurn = hooks::MappingCalls::kInTurn;

TEST(AttachmentsTest, CallsThatChangeMappingsRunSideBySideUnlessBothRangesAreAttachedInTurn) {
  const std::pair<hooks::MappingCalls, hooks::MappingCalls> pairs[] = {
      {kSideBySide, kSideBySide}, {kSideBySide, kInTurn}, {kInTurn, kSideBySide}};
  for (const auto& [of_first, of_second] : pairs) {
    RecordedChanges first(1, -1, 0, of_first);
    RecordedChanges second(1, -1, 0, of_second);
    first.at_end = [&second](const underfoot_change&) {
      std::thread other(
          [&second] { EXPECT_EQ(hooks::Mprotect(second.At(0), kPageSize, PROT_READ), 0); });
      other.join();
    };
    EXPECT_EQ(hooks::Mprotect(first.At(0), kPageSize, PROT_READ), 0);
    EXPECT_EQ(second.Take().size(), 1u);
  }
}

TEST(AttachmentsTest, OfTwoCallsInTurnTheSecondIsMadeAfterTheEndOfTheFirst) {
  for (int round = 0; round < 100; ++round) {
    RecordedChanges first(1, -1, 0, kInTurn);
    RecordedChanges second(1, -1, 0, kInTurn);
    std::atomic<bool> second_began{false};
    std::atomic<bool> first_ended{false};
    second.at_begin = [&](const underfoot_change&) { second_began = true; };
    second.at_end = [&](const underfoot_change&) { EXPECT_TRUE(first_ended); };
    std::thread other;
    first.at_end = [&](const underfoot_change&) {
      other =
          std::thread([&] { EXPECT_EQ(hooks::Mprotect(second.At(0), kPageSize, PROT_READ), 0); });
      EXPECT_TRUE(WaitUntil([&] { return second_began.load(); }));
      std::this_thread::yield();
      first_ended = true;
    };
    EXPECT_EQ(hooks::Mprotect(first.At(0), kPageSize, PROT_READ), 0);
    other.join();
    EXPECT_EQ(second.Take().size(), 1u);
  }
}

TEST(AttachmentsTest, ACallThatChangesNoMappingTakesNoTurn) {
  RecordedChanges first(1, -1, 0, kInTurn);
  RecordedChanges second(1, -1, 0, kInTurn);
  first.at_end = [&second](const underfoot_change&) {
    std::thread other(
        [&second] { EXPECT_EQ(hooks::Madvise(second.At(0), kPageSize, MADV_DONTNEED), 0); });
    other.join();
  };
  EXPECT_EQ(hooks::Mprotect(first.At(0), kPageSize, PROT_READ), 0);
  EXPECT_EQ(second.Take().size(), 1u);
}

TEST(AttachmentsTest, AChildThatIsForkedInATurnFindsTheTurnFree) {
  RecordedChanges recorded(1, -1, 0, kInTurn);
  pid_t child = -1;
  recorded.at_end = [&child](const underfoot_change&) {
    child = fork();
    if (child != 0) return;
    alarm(60);  // a child that waits for a turn for ever ends by a signal
    RecordedChanges own(1, -1, 0, kInTurn);
    const bool made = hooks::Mprotect(own.At(0), kPageSize, PROT_READ) == 0;
    _exit(made && own.Take().size() == 1 ? 0 : 1);
  };
  EXPECT_EQ(hooks::Mprotect(recorded.At(0), kPageSize, PROT_READ), 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace underfoot::testing
