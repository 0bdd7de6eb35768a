#include "mmu/notifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "mmu/base/rcu.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Records each call that it gets.
class Recorder final : public Subscriber {
 public:
  Recorder(std::string name, std::vector<std::string>& log) : name_(std::move(name)), log_(log) {}

  bool Invalidate(const Invalidation& invalidation) override {
    log_.push_back(
        absl::StrFormat("%s begin 0x%x-0x%x %s", name_, invalidation.range.begin.value,
                        invalidation.range.end.value,
                        invalidation.kind == InvalidationKind::kUnmap ? "unmap" : "protect"));
    return held;
  }
  void AfterInvalidate(const Invalidation&) override { log_.push_back(name_ + " after"); }
  bool TestClearYoung(HvaRange, bool clear) override {
    log_.push_back(name_ + (clear ? " clear" : " test"));
    return std::exchange(young, young && !clear);
  }
  void OnEnd(HvaRange range) override {
    log_.push_back(absl::StrFormat("%s end 0x%x-0x%x", name_, range.begin.value, range.end.value));
  }

  bool young = false;
  bool held = false;

 private:
  const std::string name_;
  std::vector<std::string>& log_;
};

class NotifierTest : public ::testing::Test {
 protected:
  NotifierTest() {
    notifier_.Register(a_);
    notifier_.Register(b_);
  }
  ~NotifierTest() override {
    notifier_.Unregister(b_);
    notifier_.Unregister(a_);
    rcu::Barrier();
  }
  BracketToken Begin(uint64_t begin, uint64_t end,
                     InvalidationKind kind = InvalidationKind::kUnmap) {
    return notifier_.Begin({{{begin}, {end}}, kind});
  }

  InFlightRanges in_flight_;
  ReaderRegistry readers_;
  DirectRequests direct_requests_;
  Notifier notifier_{in_flight_, readers_, direct_requests_};
  std::vector<std::string> log_;
  Recorder a_{"a", log_};
  Recorder b_{"b", log_};
};

TEST_F(NotifierTest, ABracketCallsEverySubscriberInOrder) {
  BracketToken token = Begin(0x1000, 0x3000);
  EXPECT_TRUE(token.open());
  EXPECT_THAT(log_, ElementsAre("a begin 0x1000-0x3000 unmap", "b begin 0x1000-0x3000 unmap"));
  log_.clear();
  notifier_.End(token);
  EXPECT_FALSE(token.open());
  EXPECT_THAT(log_, ElementsAre("a end 0x1000-0x3000", "b end 0x1000-0x3000"));
}

TEST_F(NotifierTest, ASubscriberThatDroppedSomethingIsCalledAgainAfterTheWalk) {
  a_.held = true;
  { InvalidationScope scope(notifier_, {{{0x1000}, {0x2000}}, InvalidationKind::kUnmap}); }
  EXPECT_THAT(log_,
              ElementsAre("a begin 0x1000-0x2000 unmap", "b begin 0x1000-0x2000 unmap", "a after",
                          "b after", "a end 0x1000-0x2000", "b end 0x1000-0x2000"));
}

TEST_F(NotifierTest, ARangeIsRoundedOutToPages) {
  BracketToken token = Begin(0x1fff, 0x2001, InvalidationKind::kProtect);
  EXPECT_EQ(token.range(), (HvaRange{{0x1000}, {0x3000}}));
  EXPECT_EQ(log_.front(), "a begin 0x1000-0x3000 protect");
  notifier_.End(token);
}

TEST_F(NotifierTest, ARangeOfEverythingIsNotEmpty) {
  BracketToken token = Begin(0, ~uint64_t{0});
  EXPECT_EQ(log_.front(), "a begin 0x0-0xfffffffffffff000 unmap");
  EXPECT_TRUE(in_flight_.FindOverlap({{0x7fff'0000'0000}, {0x7fff'0000'1000}}).has_value());
  notifier_.End(token);
}

TEST_F(NotifierTest, TheRangeIsInFlightBetweenBeginAndEnd) {
  const HvaRange range{{0x1000}, {0x3000}};
  BracketToken token = Begin(0x1000, 0x3000);
  EXPECT_TRUE(in_flight_.FindOverlap(range).has_value());
  notifier_.End(token);
  EXPECT_FALSE(in_flight_.FindOverlap(range).has_value());
}

TEST_F(NotifierTest, BracketsNestAndOverlap) {
  BracketToken outer = Begin(0x1000, 0x9000);
  BracketToken inner = Begin(0x2000, 0x3000);
  BracketToken same = Begin(0x1000, 0x9000);
  EXPECT_EQ(notifier_.Stats().in_flight, 3u);
  notifier_.End(outer);  // not in the order of a stack
  EXPECT_TRUE(in_flight_.FindOverlap({{0x8000}, {0x9000}}).has_value());
  notifier_.End(same);
  EXPECT_FALSE(in_flight_.FindOverlap({{0x8000}, {0x9000}}).has_value());
  EXPECT_TRUE(in_flight_.FindOverlap({{0x2000}, {0x3000}}).has_value());
  notifier_.End(inner);
  EXPECT_EQ(in_flight_.count(), 0u);
}

TEST_F(NotifierTest, AStrayEndIsCountedAndHarmless) {
  BracketToken never;
  notifier_.End(never);
  BracketToken token = Begin(0x1000, 0x2000);
  BracketToken moved = std::move(token);
  notifier_.End(token);  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_TRUE(in_flight_.FindOverlap({{0x1000}, {0x2000}}).has_value());
  notifier_.End(moved);
  notifier_.End(moved);
  const NotifierStats stats = notifier_.Stats();
  EXPECT_EQ(stats.stray_ends, 3u);
  EXPECT_EQ(stats.begins, 1u);
  EXPECT_EQ(stats.ends, 1u);
}

TEST_F(NotifierTest, TheSequenceCountsTheBracketsThatEnded) {
  for (int i = 0; i < 5; ++i) {
    InvalidationScope scope(notifier_, {{{0x1000}, {0x2000}}, InvalidationKind::kUnmap});
    EXPECT_EQ(notifier_.Stats().ends, static_cast<uint64_t>(i));
    EXPECT_EQ(notifier_.Stats().in_flight, 1u);
  }
  EXPECT_EQ(notifier_.Stats().ends, 5u);
  EXPECT_EQ(notifier_.Stats().in_flight, 0u);
}

TEST_F(NotifierTest, TestYoungCallsEverySubscriber) {
  a_.young = b_.young = true;
  EXPECT_TRUE(notifier_.TestClearYoung({{0}, {0x1000}}, true));
  EXPECT_THAT(log_, ElementsAre("a clear", "b clear"));
  EXPECT_FALSE(notifier_.TestClearYoung({{0}, {0x1000}}, true));
  b_.young = true;
  EXPECT_TRUE(notifier_.TestClearYoung({{0}, {0x1000}}, false));
  EXPECT_TRUE(notifier_.TestClearYoung({{0}, {0x1000}}, false));
}

TEST_F(NotifierTest, AnUnregisteredSubscriberIsNotCalled) {
  notifier_.Unregister(a_);
  { InvalidationScope scope(notifier_, {{{0x1000}, {0x2000}}, InvalidationKind::kUnmap}); }
  EXPECT_THAT(log_, ElementsAre("b begin 0x1000-0x2000 unmap", "b end 0x1000-0x2000"));
  notifier_.Register(a_);
}

TEST_F(NotifierTest, AnUnknownSubscriberIsABug) {
  Recorder stranger("stranger", log_);
  EXPECT_DEATH(notifier_.Unregister(stranger), "unknown subscriber");
}

TEST_F(NotifierTest, ABracketNeverEndedIsABug) {
  EXPECT_DEATH(static_cast<void>(Begin(0x1000, 0x2000)), "a bracket was never ended");
}

TEST_F(NotifierTest, ABeginInsideAnRcuReadSectionIsABug) {
  EXPECT_DEATH(
      {
        rcu::ReadScope rcu;
        static_cast<void>(Begin(0x1000, 0x2000));
      },
      "Begin inside an RCU read section");
}

}  // namespace
}  // namespace underfoot::testing
