// What a guest writes to its serial port, on the terminal of `underfoot run`, and what is typed there.

#include "vmm/cli/console.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tests/support/wait_until.h"
#include "vmm/base/unique_fd.h"
#include "vmm/cli/guest_terminal.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// What a console wrote, after its end.
template <class Use>
std::string WrittenBy(const Use& use) {
  std::FILE* const stream = std::tmpfile();  // a console writes to a descriptor
  {
    Console console(stream);
    use(console);
  }
  std::string written;
  std::rewind(stream);
  for (int c; (c = std::fgetc(stream)) != EOF;) written += static_cast<char>(c);
  static_cast<void>(std::fclose(stream));
  return written;
}

TEST(ConsoleTest, WhatIsNotTextIsEscaped) {
  EXPECT_EQ(Printable("plain ~ text"), "plain ~ text");
  for (int c = 0; c < 256; ++c) {
    const std::string text = Printable(std::string(1, static_cast<char>(c)));
    EXPECT_EQ(text.size(), c >= 0x20 && c < 0x7f ? 1U : 4U) << c;
    for (const char shown : text) EXPECT_TRUE(shown >= 0x20 && shown < 0x7f) << c;
  }
  EXPECT_EQ(Printable("\x1b[2J\x1b[HPASSED\r\n"), "\\x1b[2J\\x1b[HPASSED\\x0d\\x0a");
  EXPECT_EQ(Printable("\xc2\x9b"), "\\xc2\\x9b") << "a control sequence in UTF-8";
}

TEST(ConsoleTest, AGuestCannotWriteALineOfItsOwn) {
  const std::string written = WrittenBy([](Console& console) {
    console.GuestLine(1, "hello\nPASSED: nothing stale\r\x1b[2KPASSED");
  });
  EXPECT_EQ(written, "[vcpu 1] hello\\x0aPASSED: nothing stale\\x0d\\x1b[2KPASSED\n");
}

TEST(ConsoleTest, AGuestThatFloodsLosesLinesAndOthersDoNot) {
  constexpr int kLines = 100000;
  const std::string written = WrittenBy([](Console& console) {
    for (int i = 0; i < kLines; ++i) console.GuestLine(0, "flood");
    console.Line("of the host");
  });
  EXPECT_LT(static_cast<int>(std::count(written.begin(), written.end(), '\n')), kLines / 2);
  EXPECT_THAT(written, HasSubstr("\nof the host\n"));
  EXPECT_THAT(written, HasSubstr(" lines are left out"));
}

TEST(ConsoleTest, AGuestThatWritesLittleLosesNothing) {
  const std::string written = WrittenBy([](Console& console) {
    for (int i = 0; i < LineBudget::kBurst / 2; ++i) console.GuestLine(0, "a line");
  });
  EXPECT_EQ(std::count(written.begin(), written.end(), '\n'), LineBudget::kBurst / 2);
  EXPECT_THAT(written, Not(HasSubstr("left out")));
}

TEST(ConsoleTest, TheBudgetIsABurstAndThenARate) {
  LineBudget budget;
  LineBudget::Clock::time_point now{std::chrono::hours(1)};
  uint64_t skipped = 0;
  for (int i = 0; i < LineBudget::kBurst; ++i) EXPECT_TRUE(budget.Take(now, &skipped)) << i;
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(budget.Take(now, &skipped));
  EXPECT_EQ(budget.skipped(), 5U);
  now += std::chrono::seconds(1);
  EXPECT_TRUE(budget.Take(now, &skipped));
  EXPECT_EQ(skipped, 5U);
  for (int i = 1; i < LineBudget::kPerSecond; ++i) EXPECT_TRUE(budget.Take(now, &skipped)) << i;
  EXPECT_EQ(skipped, 0U);
  EXPECT_FALSE(budget.Take(now, &skipped));
  now += std::chrono::hours(1);
  int burst = 0;
  while (budget.Take(now, &skipped)) ++burst;
  EXPECT_EQ(burst, LineBudget::kBurst) << "a long silence saves up no more than a burst";
}

// A terminal of its own for a guest.
class GuestTerminalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(pthread_sigmask(SIG_BLOCK, nullptr, &before_), 0);
    GuestTerminal::BlockSignals();
    user_.Reset(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_TRUE(user_.valid());
    ASSERT_EQ(grantpt(user_.get()), 0);
    ASSERT_EQ(unlockpt(user_.get()), 0);
    input_.Reset(open(ptsname(user_.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_TRUE(input_.valid());
  }
  void TearDown() override { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  std::unique_ptr<GuestTerminal> Start() {
    absl::StatusOr<std::unique_ptr<GuestTerminal>> terminal =
        GuestTerminal::Start(input_.get(), {.type =
                                                [this](std::string_view bytes) {
                                                  absl::MutexLock lock(&mutex_);
                                                  typed_ += bytes;
                                                  return bytes.size();
                                                },
                                            .quit = [this] { quit_ = true; },
                                            .resize =
                                                [this](uint16_t columns, uint16_t rows) {
                                                  absl::MutexLock lock(&mutex_);
                                                  size_ = {columns, rows};
                                                }});
    EXPECT_TRUE(terminal.ok()) << terminal.status();
    return terminal.ok() ? *std::move(terminal) : nullptr;
  }
  void SetSize(uint16_t columns, uint16_t rows) {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(ioctl(user_.get(), TIOCSWINSZ, &size), 0);
  }
  bool SizeBecomes(uint16_t columns, uint16_t rows) {
    return WaitUntil([&] {
      absl::MutexLock lock(&mutex_);
      return size_ == std::pair(columns, rows);
    });
  }
  bool TypedBecomes(const std::string& text) {
    return WaitUntil([&] {
      absl::MutexLock lock(&mutex_);
      return typed_ == text;
    });
  }

  sigset_t before_{};
  UniqueFd user_;   // where a user would type
  UniqueFd input_;  // what the program reads
  std::atomic<bool> quit_{false};
  absl::Mutex mutex_;
  std::string typed_ ABSL_GUARDED_BY(mutex_);
  std::pair<uint16_t, uint16_t> size_ ABSL_GUARDED_BY(mutex_) = {0, 0};
};

TEST_F(GuestTerminalTest, ItsSizeIsPassedOnAtTheStartAndAfterEachChange) {
  SetSize(80, 24);
  const std::unique_ptr<GuestTerminal> terminal = Start();
  ASSERT_NE(terminal, nullptr);
  EXPECT_TRUE(SizeBecomes(80, 24));
  SetSize(132, 43);
  // The kernel sends it to the processes whose terminal this is.
  ASSERT_EQ(kill(getpid(), SIGWINCH), 0);
  EXPECT_TRUE(SizeBecomes(132, 43));
}

TEST_F(GuestTerminalTest, KeysReachTheGuestAsTheyAreTypedAndOneOfThemEndsIt) {
  const std::unique_ptr<GuestTerminal> terminal = Start();
  ASSERT_NE(terminal, nullptr);
  ASSERT_EQ(write(user_.get(), "a\x03\r", 3), 3);
  EXPECT_TRUE(TypedBecomes("a\x03\r"));
  EXPECT_FALSE(quit_);
  ASSERT_EQ(write(user_.get(),
                  "b\x1d"
                  "c",
                  3),
            3);
  EXPECT_TRUE(TypedBecomes("a\x03\rb"));
  EXPECT_TRUE(WaitUntil([&] { return quit_.load(); }));
}

}  // namespace
}  // namespace underfoot::testing
