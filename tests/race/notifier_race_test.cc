// Subscribers that are registered and unregistered while brackets are open (I3).

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>

#include "tests/race/race_test.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

class CountingSubscriber final : public Subscriber {
 public:
  bool Invalidate(const Invalidation&) override {
    ++inside;
    PassSyncPoint("in-walk");
    --inside;
    ++begins;
    return true;
  }
  void AfterInvalidate(const Invalidation&) override {
    ++inside;
    PassSyncPoint("in-subscriber");
    --inside;
  }
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange) override { ++ends; }

  std::atomic<int> inside{0};
  std::atomic<int> begins{0};
  std::atomic<int> ends{0};
};

class NotifierRaceTest : public RaceTest {
 protected:
  void Register() { mmu_.notifier().Register(subscriber_); }
  void Unregister() { mmu_.notifier().Unregister(subscriber_); }

  CountingSubscriber subscriber_;
};

TEST_F(NotifierRaceTest, AnUnregisterWaitsForTheWalkInside) {
  Register();
  Gate inside("in-walk");
  Task bracket("bracket", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(inside, bracket));
  Gate waits("unregister-waits-for-walks");
  std::atomic<int> left_inside{-1};
  Task unregister("unregister", [&] {
    Unregister();
    left_inside = subscriber_.inside.load();
  });
  ASSERT_TRUE(StopsAt(waits, unregister));
  waits.Open();
  // An Unregister that wrongly does not wait gets this time to return. One that waits is not
  // disturbed by it.
  static_cast<void>(WaitUntil([&] { return unregister.done(); }, std::chrono::milliseconds(100)));
  inside.Open();
  unregister.Join();
  bracket.Join();
  EXPECT_EQ(left_inside, 0);
  EXPECT_EQ(subscriber_.begins, 1);
}

TEST_F(NotifierRaceTest, AnUnregisterWaitsForTheCallsAfterTheWalk) {
  Register();
  Gate inside("in-subscriber");
  Task bracket("bracket", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(inside, bracket));
  Gate waits("unregister-waits");
  std::atomic<int> left_inside{-1};
  Task unregister("unregister", [&] {
    Unregister();
    left_inside = subscriber_.inside.load();
  });
  ASSERT_TRUE(StopsAt(waits, unregister));
  waits.Open();
  inside.Open();
  unregister.Join();
  bracket.Join();
  EXPECT_EQ(left_inside, 0);
  EXPECT_EQ(subscriber_.begins, 1);
}

TEST_F(NotifierRaceTest, AnUnregisterWaitsForNoBracket) {
  Register();
  OpenBracket held = Begin(5);
  Task unregister("unregister inside a bracket", [&] { Unregister(); });
  unregister.Join();
  held.End();
  EXPECT_EQ(subscriber_.begins, 1);
  EXPECT_EQ(subscriber_.ends, 0);
  EXPECT_EQ(mmu_.Stats().notifier.in_flight, 0u);
}

TEST_F(NotifierRaceTest, ASubscriberRegisteredInsideABracketFindsTheRangeInFlight) {
  OpenBracket held = Begin(5);
  Task enroll("register inside a bracket", [&] { Register(); });
  enroll.Join();
  EXPECT_TRUE(mmu_.in_flight().FindOverlap(host_.Pages(5)).has_value());
  EXPECT_EQ(subscriber_.begins, 0);
  held.End();
  EXPECT_EQ(subscriber_.ends, 1);  // an End without its Begin has no effect
  MovePage(5);
  EXPECT_EQ(subscriber_.begins, 1);
  Unregister();
}

//   invalidation                    new subscriber
//   in flight; has not loaded the list
//                                   is registered
//   calls the new subscriber
TEST_F(NotifierRaceTest, ASubscriberRegisteredBeforeTheWalkGetsTheBegin) {
  Gate gate("begin-in-flight");
  Task bracket("bracket", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, bracket));
  Register();
  gate.Open();
  bracket.Join();
  EXPECT_EQ(subscriber_.begins, 1);
  Unregister();
}

TEST_F(NotifierRaceTest, BracketsOfOnePageOverlapInASubscriber) {
  Register();
  Gate inside("in-subscriber");
  Task first("first bracket", [&] { MovePage(5); });
  ASSERT_TRUE(StopsAt(inside, first));
  Task second("second bracket", [&] { MovePage(5); });
  second.Join();
  EXPECT_EQ(mmu_.in_flight().count(), 1u);
  inside.Open();
  first.Join();
  EXPECT_EQ(subscriber_.begins, 2);
  EXPECT_EQ(subscriber_.ends, 2);
  Unregister();
}

}  // namespace
}  // namespace underfoot::testing
