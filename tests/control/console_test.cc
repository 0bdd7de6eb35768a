// What a guest writes to its serial port, on the terminal of `underfoot run`.

#include "vmm/cli/console.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

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

}  // namespace
}  // namespace underfoot::testing
