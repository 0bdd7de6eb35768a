// Installers against invalidations: both orders of each pair of steps that P1 names.

#include <gtest/gtest.h>

#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class InstallRaceTest : public RaceTest {
 protected:
  // A fault that runs on a thread of its own.
  class Installer {
   public:
    Installer(InstallRaceTest& test, uint64_t page, Access access = Access::kRead)
        : task_("installer", [this, &test, page, access] {
            Reader reader(test.mmu_.readers());
            result_ = test.Fault(reader, page, access);
          }) {}
    Task& task() { return task_; }
    FaultResult Result() {
      task_.Join();
      return result_;
    }

   private:
    FaultResult result_{FaultOutcome::kFailed, Pte(), {}};
    Task task_;
  };
};

//   installer                       invalidation
//   1 claims; 2 finds no bracket
//                                   a, b Begin steals the claim
//                                   the page moves; d End
//   3 page-in; 4 publication fails
TEST_F(InstallRaceTest, ABeginAfterTheClaimStealsIt) {
  Gate gate("fault-before-page-in");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MovePage(5);
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
  FaultIn(5);
}

//   installer                       invalidation
//   1 claims; 3 page-in: the old frame
//                                   Begin; the page moves; End
//   4 publication fails
TEST_F(InstallRaceTest, AWholeBracketAfterThePageInIsNotMissed) {
  Gate gate("fault-after-page-in");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MovePage(5);
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
  FaultIn(5);
  EXPECT_EQ(LeafOf(5)->pfn(), PfnNow(5));
}

//   installer                       invalidation
//   1 claims; 2 finds no bracket
//                                   Begin steals the claim; the mapping is moved away
//   3 page-in fails; the claim is not its own any more, so it retries
//                                   the mapping is moved back; End
TEST_F(InstallRaceTest, APageInThatFailsUnderABracketIsRetried) {
  host_.SetAnswer([](Hva, Access) { return PageInResult{}; });
  Gate gate("fault-before-page-in");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket away = Begin(5);
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  host_.SetAnswer({});
  away.End();
  FaultIn(5);
}

TEST_F(InstallRaceTest, AClaimWhileTheRangeIsInFlightIsGivenBack) {
  OpenBracket held = Begin(5);
  {
    Reader reader(mmu_.readers());
    const FaultResult fault = Fault(reader, 5);
    ASSERT_EQ(fault.outcome, FaultOutcome::kBlocked);
    EXPECT_TRUE(mmu_.in_flight().InFlight(fault.bracket));
    EXPECT_EQ(Fault(reader, 6).outcome, FaultOutcome::kMapped);  // an unrelated page
  }
  EXPECT_EQ(host_.page_ins(), 1u);
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
  FaultIn(5);
}

//   installer                       invalidation
//   1 claims
//                                   Begin steals the claim
//   2 finds the bracket; gives its claim back, but no longer has one
//                                   End
TEST_F(InstallRaceTest, ABeginBetweenClaimAndCheckIsSeen) {
  Gate gate("fault-claimed");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket held = Begin(5);
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kBlocked);
  EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  held.End();
}

//   installer                       invalidation
//                                   Begin has not yet done a
//   1 to 4: publishes the leaf
//                                   a; the walk of b empties the leaf
TEST_F(InstallRaceTest, TheWalkFindsWhatWasInstalledBeforeTheRange) {
  Gate gate("begin-not-in-flight");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  FaultIn(5);
  gate.Open();
  begin.Join();
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
}

//   installer                       invalidation
//                                   Begin has done a and not yet b
//   1 claims; 2 finds the range in flight
TEST_F(InstallRaceTest, TheRangeIsSeenBeforeTheWalk) {
  Gate gate("begin-in-flight");
  OpenBracket held;
  Task begin("begin", [&] { held = Begin(5); });
  ASSERT_TRUE(StopsAt(gate, begin));
  {
    Reader reader(mmu_.readers());
    EXPECT_EQ(Fault(reader, 5).outcome, FaultOutcome::kBlocked);
  }
  gate.Open();
  begin.Join();
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
}

//   first installer        invalidation         second installer
//   claims; page-in
//                          Begin; End
//                                               claims
//   publication fails: the claim has another tag
//                                               publishes
TEST_F(InstallRaceTest, AClaimOfAnotherIsNotPublished) {
  Gate after("fault-after-page-in");
  Installer first(*this, 5);
  ASSERT_TRUE(StopsAt(after, first.task()));
  MovePage(5);
  Gate before("fault-before-page-in");
  Installer second(*this, 5);
  ASSERT_TRUE(StopsAt(before, second.task()));
  after.Open();
  EXPECT_EQ(first.Result().outcome, FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
  before.Open();
  EXPECT_EQ(second.Result().outcome, FaultOutcome::kMapped);
  EXPECT_EQ(LeafOf(5)->pfn(), PfnNow(5));
}

//   installer                       invalidation
//   4 publication: finds its claim
//                                   Begin steals the claim
//   the compare-exchange fails
TEST_F(InstallRaceTest, APublicationLosesToATheftInItsLastStep) {
  Gate gate("publish-exchange");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket held = Begin(5);
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
  held.End();
}

TEST_F(InstallRaceTest, AStolenRelaxLeavesTheLeafReadOnlyAndClean) {
  host_.GrantOnlyWhatIsAskedFor();
  FaultIn(5);
  Gate gate("fault-after-page-in");
  Installer installer(*this, 5, Access::kWrite);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket held = Begin(5, InvalidationKind::kProtect);
  held.End();
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  ASSERT_TRUE(LeafOf(5).has_value());
  EXPECT_FALSE(LeafOf(5)->writable());
  EXPECT_FALSE(LeafOf(5)->dirty());
}

TEST_F(InstallRaceTest, ARelaxSurvivesAReaderThatMarksTheLeaf) {
  host_.GrantOnlyWhatIsAskedFor();
  FaultIn(5);
  static_cast<void>(mmu_.notifier().TestClearYoung(host_.Pages(5), true));
  Gate gate("publish-exchange");
  Installer installer(*this, 5, Access::kWrite);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  {
    Reader reader(mmu_.readers());
    ASSERT_TRUE(mmu_.Translate(reader, GpaAt(5), Access::kRead));  // makes the leaf young
  }
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kMapped);
  EXPECT_TRUE(LeafOf(5)->writable());
}

TEST_F(InstallRaceTest, FaultsOfOnePageMerge) {
  Gate gate("fault-before-page-in");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  {
    Reader reader(mmu_.readers());
    EXPECT_EQ(Fault(reader, 5).outcome, FaultOutcome::kBusy);
  }
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kMapped);
  EXPECT_EQ(host_.page_ins(), 1u);
}

TEST_F(InstallRaceTest, APageSourceThatNeverAnswersBlocksNoBegin) {
  host_.SetAnswer([](Hva, Access) {
    PassSyncPoint("page-source");
    return std::nullopt;
  });
  Gate gate("page-source");
  Installer installer(*this, 5);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  Task whole_bracket("bracket around a page-in", [&] { MovePage(5); });
  whole_bracket.Join();
  Task update("memslot update around a page-in", [&] { MoveSlot(); });
  update.Join();
  gate.Open();
  EXPECT_EQ(installer.Result().outcome, FaultOutcome::kAgain);
  EXPECT_FALSE(LeafOf(5).has_value());
}

TEST_F(InstallRaceTest, AReadSectionOfRcuBlocksNoBegin) {
  FaultIn(5);
  Gate gate("in-read-section");
  Task walker("walker", [] {
    rcu::ReadScope rcu;
    PassSyncPoint("in-read-section");
  });
  ASSERT_TRUE(StopsAt(gate, walker));
  Task bracket("bracket beside a read section", [&] { MovePage(5); });
  bracket.Join();
}

TEST_F(InstallRaceTest, EndWakesTheInstallersThatWaitForIt) {
  OpenBracket held = Begin(5);
  Gate gate("wait-for-end");
  Task waiter("waits for the bracket", [&] { FaultIn(5); });
  ASSERT_TRUE(StopsAt(gate, waiter));
  gate.Open();
  held.End();
  waiter.Join();
  EXPECT_TRUE(LeafOf(5).has_value());
}

// The bracket that the installer met ends while another bracket, in the same place of the set, has
// begun.
TEST_F(InstallRaceTest, AWaiterIsNotHeldByTheNextBracketInThatPlace) {
  OpenBracket held = Begin(5);
  Gate gate("wait-for-end");
  Task waiter("waits for the bracket", [&] { FaultIn(5); });
  ASSERT_TRUE(StopsAt(gate, waiter));
  held.End();
  held = Begin(9);
  gate.Open();
  waiter.Join();
  EXPECT_TRUE(LeafOf(5).has_value());
  held.End();
}

}  // namespace
}  // namespace underfoot::testing
