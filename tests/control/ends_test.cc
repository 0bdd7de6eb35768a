// How a run is asked to end, and what does not end it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <string>

#include "tests/support/no_room_for_threads.h"
#include "tests/support/wait_until.h"
#include "vmm/cli/console.h"
#include "vmm/cli/end_signals.h"
#include "vmm/stats/run_end.h"

namespace underfoot::testing {
namespace {

using ::testing::ExitedWithCode;

std::FILE* WithoutReader() {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return nullptr;
  close(ends[0]);
  return fdopen(ends[1], "w");
}

// Each in a process of its own: a signal that is not taken ends it.
TEST(EndSignalsTest, EachOfThemIsARequestToEnd) {
  for (const int signal : {SIGHUP, SIGINT, SIGTERM}) {
    EXPECT_EXIT(
        {
          ::signal(signal, SIG_DFL);  // ignored, if the test was started by nohup
          const auto signals = EndSignals::Start();
          kill(getpid(), signal);
          _exit(WaitUntil([&] { return (*signals)->Count() == 1; }) ? 0 : 1);
        },
        ExitedWithCode(0), "")
        << signal;
  }
}

TEST(EndSignalsTest, ASecondOneEndsAtOnceAfterTheHostIsRestored) {
  EXPECT_EXIT(
      {
        const auto signals = EndSignals::Start();
        (*signals)->SetAtOnce([] { std::fputs("put back", stderr); });
        kill(getpid(), SIGINT);
        static_cast<void>(WaitUntil([&] { return (*signals)->Count() == 1; }));
        kill(getpid(), SIGTERM);
        static_cast<void>(WaitUntil([] { return false; }));
      },
      ExitedWithCode(ExitCodeOf(RunEnd::kUnfinished)), "put back");
}

bool IsPending(int signal) {
  sigset_t pending{};
  return sigpending(&pending) == 0 && sigismember(&pending, signal) == 1;
}

// As timeout(1) sends it.
TEST(EndSignalsTest, TheSameSignalAgainAndAgainAtOnceIsOneRequest) {
  EXPECT_EXIT(
      {
        const auto signals = EndSignals::Start(std::chrono::hours(1));
        kill(getpid(), SIGTERM);
        static_cast<void>(WaitUntil([&] { return (*signals)->Count() == 1; }));
        for (int i = 0; i < 3; ++i) {
          kill(getpid(), SIGTERM);
          static_cast<void>(WaitUntil([] { return !IsPending(SIGTERM); }));
        }
        // If the last one were counted, that would follow in a moment.
        static_cast<void>(
            WaitUntil([&] { return (*signals)->Count() != 1; }, std::chrono::milliseconds(20)));
        _exit((*signals)->Count() == 1 ? 42 : 43);
      },
      ExitedWithCode(42), "");
}

TEST(EndSignalsTest, ItsOwnerDoesNotWaitForARepetition) {
  auto signals = EndSignals::Start(std::chrono::hours(1));
  ASSERT_TRUE(signals.ok());
  kill(getpid(), SIGTERM);
  EXPECT_TRUE(WaitUntil([&] { return (*signals)->Count() == 1; }));
  signals->reset();
}

TEST(EndSignalsTest, AHangupThatWasIgnoredStaysIgnored) {
  EXPECT_EXIT(
      {
        ::signal(SIGHUP, SIG_IGN);
        const auto signals = EndSignals::Start();
        kill(getpid(), SIGHUP);
        kill(getpid(), SIGTERM);
        _exit(WaitUntil([&] { return (*signals)->Count() != 0; }) ? (*signals)->Count() : 9);
      },
      ExitedWithCode(1), "");
}

TEST(EndSignalsTest, WithoutRoomForItsThreadTheStartFailsAndSignalsAreUnchanged) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  {
    const NoRoomForThreads no_room;
    const auto signals = EndSignals::Start();
    EXPECT_TRUE(absl::IsResourceExhausted(signals.status())) << signals.status();
  }
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (const int signal : {SIGHUP, SIGINT, SIGTERM}) {
    EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal)) << signal;
  }
  EXPECT_TRUE(EndSignals::Start().ok());
}

TEST(EndSignalsTest, AReaderThatGoesAwayEndsNothing) {
  EXPECT_EXIT(
      {
        const auto signals = EndSignals::Start();
        Console console(WithoutReader());
        console.Line("to no reader");
        _exit(0);
      },
      ExitedWithCode(0), "");
}

// The signal would kill the run and leave the host changed.
TEST(EndSignalsTest, AFileThatMayNotGrowIsAnErrorAndEndsNothing) {
  EXPECT_EXIT(
      {
        const auto signals = EndSignals::Start();
        const int file = memfd_create("too long", MFD_CLOEXEC);
        rlimit none{};  // the least of both
        if (setrlimit(RLIMIT_FSIZE, &none) != 0) _exit(1);
        _exit(write(file, "x", 1) < 0 && errno == EFBIG ? 0 : 2);
      },
      ExitedWithCode(0), "");
}

// It would hang.
TEST(ConsoleTest, AReaderThatHasStoppedHoldsUpNoLine) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe(pipe.data()), 0);
  std::FILE* const stream = fdopen(pipe[1], "w");
  {
    Console console(stream);
    console.Line("the first is taken");
    const std::string line(1000, 'x');
    for (int i = 0; i < 500; ++i) console.Line(line);
  }
  std::array<char, 18> first{};
  EXPECT_EQ(read(pipe[0], first.data(), first.size()), static_cast<ssize_t>(first.size()));
  EXPECT_EQ(std::string(first.data(), first.size()), "the first is taken");
  std::fclose(stream);
  close(pipe[0]);
}

TEST(RunEndTest, EachEndHasItsExitCodeAndWrongOutweighsTheOthers) {
  EXPECT_EQ(ExitCodeOf(RunEnd::kPassed), 0);
  EXPECT_EQ(ExitCodeOf(RunEnd::kWrong), 1);
  EXPECT_EQ(ExitCodeOf(RunEnd::kCouldNotRun), 2);
  EXPECT_EQ(ExitCodeOf(RunEnd::kUnfinished), 3);
  EXPECT_EQ(ExitCodeOf(RunEnd::kRebooted), 4);
  EXPECT_LT(RunEnd::kRebooted, RunEnd::kUnfinished);
  EXPECT_LT(RunEnd::kUnfinished, RunEnd::kWrong);
}

}  // namespace
}  // namespace underfoot::testing
