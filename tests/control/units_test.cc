#include "vmm/cli/units.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST(UnitsTest, SizesArePowersOf1024) {
  for (const auto& [text, bytes] :
       std::vector<std::pair<std::string, uint64_t>>{{"0", 0},
                                                     {"4096", 4096},
                                                     {"7B", 7},
                                                     {"64K", 65536},
                                                     {"64KiB", 65536},
                                                     {"64kb", 65536},
                                                     {"256M", uint64_t{1} << 28},
                                                     {"256MiB", uint64_t{1} << 28},
                                                     {"1g", uint64_t{1} << 30},
                                                     {"16777215T", uint64_t{16777215} << 40}}) {
    EXPECT_EQ(*ParseBytes(text), bytes) << text;
  }
}

TEST(UnitsTest, AnInvalidSizeIsAnErrorThatShowsTheFormat) {
  for (const char* bad :
       {"", "M", "-1M", "+1M", " 1M", "1M ", "1.5G", "1X", "1MM", "0x10M", "1e3"}) {
    EXPECT_THAT(std::string(ParseBytes(bad).status().message()), HasSubstr("like 256M")) << bad;
  }
  for (const char* much : {"16777216T", "18446744073709551616", "99999999999999999999999G"}) {
    EXPECT_THAT(std::string(ParseBytes(much).status().message()), HasSubstr("64 bits")) << much;
  }
}

TEST(UnitsTest, DurationsHaveAUnitExceptZero) {
  EXPECT_EQ(*ParseDuration("0"), milliseconds(0));
  EXPECT_EQ(*ParseDuration("0s"), milliseconds(0));
  EXPECT_EQ(*ParseDuration("500ms"), milliseconds(500));
  EXPECT_EQ(*ParseDuration("10s"), milliseconds(10000));
  EXPECT_EQ(*ParseDuration("2m"), milliseconds(120000));
  EXPECT_EQ(*ParseDuration("1h"), milliseconds(3600000));
  EXPECT_EQ(*ParseDuration("0.5s"), milliseconds(500));
  EXPECT_EQ(*ParseDuration("1.5m"), milliseconds(90000));
  EXPECT_EQ(*ParseDuration("1D"), milliseconds(86400000));
  EXPECT_EQ(*ParseDuration("0.0s"), milliseconds(0));
  for (const char* bad : {"", "10", "s", "-1s", "+1s", ".5s", "1 s", "1us", "1,5s", "1e3s", "nans",
                          "infs", "0x10s", "1.2.3s"}) {
    EXPECT_THAT(std::string(ParseDuration(bad).status().message()), HasSubstr("like 10s")) << bad;
  }
  for (const char* much : {"9000h", "18446744073709551615h", "99999999999999999999s"}) {
    EXPECT_THAT(std::string(ParseDuration(much).status().message()),
                HasSubstr("more than the most, 365d"))
        << much;
    EXPECT_TRUE(absl::IsOutOfRange(ParseDuration(much).status())) << much;
  }
}

TEST(UnitsTest, OneThingIsNamedInTheSingular) {
  EXPECT_EQ(Counted(0, "vCPU"), "0 vCPUs");
  EXPECT_EQ(Counted(1, "vCPU"), "1 vCPU");
  EXPECT_EQ(Counted(1234, "page"), "1,234 pages");
}

TEST(UnitsTest, ATimeThatIsNotZeroNeverBecomesZero) {
  for (const char* little : {"0.0001s", "0.4ms", "0.000000001d"}) {
    EXPECT_THAT(std::string(ParseDuration(little).status().message()), HasSubstr("1ms")) << little;
  }
  EXPECT_EQ(*ParseDuration("0.6ms"), milliseconds(1));
  EXPECT_EQ(*ParseDuration("365d"), milliseconds(int64_t{365} * 86400000));
  EXPECT_FALSE(ParseDuration("365.01d").ok());
}

TEST(UnitsTest, NumbersAreDecimalOrHexadecimal) {
  EXPECT_EQ(*ParseNumber("0"), 0U);
  EXPECT_EQ(*ParseNumber("0x1F"), 31U);
  EXPECT_EQ(*ParseNumber("18446744073709551615"), ~uint64_t{0});
  for (const char* bad : {"", "0x", "-1", "18446744073709551616", "1a", "x1", "0x-1"}) {
    EXPECT_FALSE(ParseNumber(bad).ok()) << bad;
  }
}

TEST(UnitsTest, CountsHaveTheirThousandsApart) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatCount(1000), "1,000");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatCount(~uint64_t{0}), "18,446,744,073,709,551,615");
}

TEST(UnitsTest, BytesUseTheLargestWholeUnit) {
  EXPECT_EQ(FormatBytes(0), "0 bytes");
  EXPECT_EQ(FormatBytes(1000), "1,000 bytes");
  EXPECT_EQ(FormatBytes(4096), "4 KiB");
  EXPECT_EQ(FormatBytes(uint64_t{256} << 20), "256 MiB");
  EXPECT_EQ(FormatBytes((uint64_t{1} << 30) + (1 << 20)), "1,025 MiB");
  EXPECT_EQ(FormatBytes(uint64_t{1} << 40), "1 TiB");
}

TEST(UnitsTest, TimesUseTheUnitThatFits) {
  EXPECT_EQ(FormatMicros(0), "0 us");
  EXPECT_EQ(FormatMicros(850), "850 us");
  EXPECT_EQ(FormatMicros(1250), "1.2 ms");
  EXPECT_EQ(FormatMicros(12345678), "12.3 s");
  EXPECT_EQ(FormatMicros(250000000), "4 min 10 s");
}

}  // namespace
}  // namespace underfoot::testing
