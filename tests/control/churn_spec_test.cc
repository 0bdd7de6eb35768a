#include "vmm/config/churn_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(std::string_view text) {
  const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(text);
  EXPECT_FALSE(spec.ok()) << text;
  return std::string(spec.status().message());
}

TEST(ChurnSpecTest, OffIsNoRates) {
  const auto spec = ParseChurnSpec("off");
  ASSERT_TRUE(spec.ok());
  EXPECT_TRUE(spec->off());
  EXPECT_EQ(spec->TotalRate(), 0);
}

TEST(ChurnSpecTest, MixedIsEveryKindAtTwoThousandInAll) {
  const auto spec = ParseChurnSpec("mixed");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->rates.size(), kChurnKinds.size());
  EXPECT_DOUBLE_EQ(spec->TotalRate(), 2000);
  EXPECT_DOUBLE_EQ(ParseChurnSpec("storm")->TotalRate(), 20000);
}

TEST(ChurnSpecTest, APresetIsScaled) {
  const auto spec = ParseChurnSpec("mixed:5000/s");
  ASSERT_TRUE(spec.ok());
  EXPECT_NEAR(spec->TotalRate(), 5000, 1e-6);
  EXPECT_NEAR(spec->rates.at(ChurnKind::kMemslot),
              ParseChurnSpec("mixed")->rates.at(ChurnKind::kMemslot) * 2.5, 1e-6);
  EXPECT_TRUE(ParseChurnSpec("mixed:0/s")->off());
}

TEST(ChurnSpecTest, AListIsThoseKindsAndNothingElse) {
  const auto spec = ParseChurnSpec("discard:2000/s,memslot:20.5/s,wp:0/s");
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->rates, (ChurnRates{{ChurnKind::kDiscard, 2000}, {ChurnKind::kMemslot, 20.5}}));
  EXPECT_FALSE(spec->preset);
  EXPECT_EQ(ParseChurnSpec("zap:7")->rates, (ChurnRates{{ChurnKind::kZap, 7}}));
}

TEST(ChurnSpecTest, EveryKindOfTheTableIsKnown) {
  for (const ChurnKindInfo& info : kChurnKinds) {
    const auto spec = ParseChurnSpec(std::string(info.name) + ":1/s");
    ASSERT_TRUE(spec.ok()) << info.name;
    EXPECT_EQ(spec->rates, (ChurnRates{{info.kind, 1}}));
  }
}

TEST(ChurnSpecTest, TheErrorNamesThePartAndListsTheKinds) {
  EXPECT_THAT(ErrorOf("frob:1/s"), HasSubstr("'frob' is not a kind of churn"));
  EXPECT_THAT(ErrorOf("frob:1/s"), HasSubstr("discard, zap, punch, free, pageout, cold"));
  EXPECT_THAT(ErrorOf("discard"), HasSubstr("'discard' has no rate"));
  EXPECT_THAT(ErrorOf("discard:"), HasSubstr("'discard:' has no rate like 2000/s"));
  EXPECT_THAT(ErrorOf("discard:1/s,zap:x/s"), HasSubstr("'zap:x/s' has no rate like"));
  EXPECT_THAT(ErrorOf("discard:1/s,discard:2/s"), HasSubstr("'discard' is given twice"));
  EXPECT_THAT(ErrorOf("mixed,zap:1/s"), HasSubstr("'mixed' stands alone"));
  EXPECT_THAT(ErrorOf("zap:1/s,off"), HasSubstr("'off' stands alone"));
  EXPECT_THAT(ErrorOf("off:1/s"), HasSubstr("'off:1/s' takes no rate"));
  EXPECT_THAT(ErrorOf("zap:1000001/s"), HasSubstr("is more than 1000000/s"));
  EXPECT_THAT(ErrorOf("zap:1/s,"), HasSubstr("names no kind"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("names no kind"));
  for (const char* bad : {"zap:-1/s", "zap:nan/s", "zap:inf/s", "zap: 1/s", "zap:1/m", "zap:1/s/s",
                          "zap:0x10/s", "zap:1e400/s", "zap:+1/s", "Zap:1/s", " zap:1/s"}) {
    EXPECT_FALSE(ParseChurnSpec(bad).ok()) << bad;
  }
}

TEST(ChurnSpecTest, PrivateMemoryRefusesWhatItCannotDoByName) {
  const auto spec = ParseChurnSpec("discard:1/s,punch:1/s");
  ASSERT_TRUE(spec.ok());
  EXPECT_TRUE(ResolveChurn(*spec, {Backing::kMemfd}).ok());
  const auto rates = ResolveChurn(*spec, {Backing::kAnon});
  EXPECT_THAT(std::string(rates.status().message()), HasSubstr("punch needs a memfd"));
  EXPECT_THAT(std::string(rates.status().message()), HasSubstr("--backing memfd"));
}

TEST(ChurnSpecTest, APresetKeepsItsTotalOnPrivateMemory) {
  const auto spec = ParseChurnSpec("mixed");
  const auto rates = ResolveChurn(*spec, {Backing::kAnon});
  ASSERT_TRUE(rates.ok());
  double total = 0;
  for (const auto& [kind, rate] : *rates) {
    EXPECT_NE(InfoOf(kind).backing, BackingNeed::kMemfd);
    total += rate;
  }
  EXPECT_DOUBLE_EQ(total, 2000);
}

TEST(ChurnSpecTest, TheTextOfRatesReadsBackAsTheSameRates) {
  for (const char* text : {"off", "mixed", "discard:2000/s,memslot:20.25/s", "zap:1000000/s"}) {
    const auto spec = ParseChurnSpec(text);
    ASSERT_TRUE(spec.ok()) << text;
    EXPECT_EQ(ParseChurnSpec(ChurnSpecText(spec->rates))->rates, spec->rates) << text;
  }
  EXPECT_EQ(ChurnSpecText({{ChurnKind::kDiscard, 2000}, {ChurnKind::kMemslot, 20.5}}),
            "discard:2000/s,memslot:20.5/s");
}

}  // namespace
}  // namespace underfoot::testing
