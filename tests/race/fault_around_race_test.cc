// A fault that also brings neighbouring pages in, against invalidations of some of them.

#include <gtest/gtest.h>

#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class FaultAroundRaceTest : public RaceTest {
 protected:
  static constexpr uint64_t kWindow = 16;

  // A fault on page 5 with the first sixteen pages as its window, on a thread of its own.
  class Installer {
   public:
    explicit Installer(FaultAroundRaceTest& test)
        : task_("installer", [this, &test] {
            Reader reader(test.mmu_.readers());
            result_ = test.mmu_.faults_around().HandleFault(
                reader, GfnAt(5), {GfnAt(0), GfnAt(kWindow)}, Access::kWrite);
          }) {}
    Task& task() { return task_; }
    FaultAroundResult Result() {
      task_.Join();
      return result_;
    }

   private:
    FaultAroundResult result_{{FaultOutcome::kFailed, Pte(), {}}, 0};
    Task task_;
  };

  void ExpectTrueLeavesBut(uint64_t missing) {
    for (uint64_t page = 0; page < kWindow; ++page) {
      EXPECT_EQ(LeafOf(page).has_value(), page != missing) << page;
      if (LeafOf(page).has_value()) {
        EXPECT_EQ(LeafOf(page)->pfn(), PfnNow(page)) << page;
      }
    }
  }
};

//   installer                       invalidation
//   claims; finds no bracket
//                                   Begin steals the claim of a neighbour
//   page-in; the publication of this page fails
//                                   the page moves; End
TEST_F(FaultAroundRaceTest, ABeginAfterTheClaimsStealsThoseOfItsRange) {
  Gate gate("around-before-page-in");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket held = Begin(7);
  gate.Open();
  const FaultAroundResult result = installer.Result();
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, kWindow - 2);
  EXPECT_FALSE(LeafOf(7).has_value());
  host_.Move(host_.Pages(7));
  held.End();
  ExpectTrueLeavesBut(7);
}

//   installer                       invalidation
//   claims; page-in: the old frame
//                                   Begin; a neighbour moves; End
//   the publication of this page fails
TEST_F(FaultAroundRaceTest, AWholeBracketAfterThePageInIsNotMissed) {
  Gate gate("around-after-page-in");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MovePage(7);
  gate.Open();
  EXPECT_EQ(installer.Result().around, kWindow - 2);
  ExpectTrueLeavesBut(7);
}

//   installer                       invalidation
//   claims; page-in
//                                   Begin; the faulting page moves; End
//   its publication fails; it makes a fault of one page
TEST_F(FaultAroundRaceTest, AFaultWhoseOwnClaimIsStolenRetriesItsPageAlone) {
  Gate gate("around-after-page-in");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MovePage(5);
  gate.Open();
  const FaultAroundResult result = installer.Result();
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, kWindow - 1);
  ExpectTrueLeavesBut(kWindow);
  EXPECT_TRUE(LeafOf(5)->dirty());
}

//   installer                       invalidation
//   claims
//                                   Begin steals the claim of a neighbour
//   finds the bracket in flight; gives all claims back
//                                   End
TEST_F(FaultAroundRaceTest, ABeginBetweenClaimsAndLookIsSeen) {
  Gate gate("around-claimed");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  OpenBracket held = Begin(7);
  gate.Open();
  const FaultAroundResult result = installer.Result();
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(result.around, 0u);
  EXPECT_EQ(host_.page_ins(), 1u);
  EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
  held.End();
}

//   installer                       update
//   claims; page-in
//                                   the slot moves; the update steals all claims
//   each publication fails; it makes a fault of one page, at the slot's new place
TEST_F(FaultAroundRaceTest, AMemslotUpdateTakesTheWholeWindow) {
  Gate gate("around-after-page-in");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MoveSlot();
  gate.Open();
  const FaultAroundResult result = installer.Result();
  EXPECT_EQ(result.around, 0u);
  EXPECT_EQ(result.fault.outcome, FaultOutcome::kMapped);
  EXPECT_EQ(LeafOf(5)->pfn(), host_.PfnOf(host_.PageAt(kPages / 2 + 5)));
}

//   installer                       update
//   claims
//                                   the slot moves
//   the slot has another identity; gives all claims back
TEST_F(FaultAroundRaceTest, AnUpdateBetweenClaimsAndLookIsSeen) {
  Gate gate("around-claimed");
  Installer installer(*this);
  ASSERT_TRUE(StopsAt(gate, installer.task()));
  MoveSlot();
  gate.Open();
  EXPECT_EQ(installer.Result().around, 0u);
  EXPECT_EQ(host_.page_ins(), 1u);
}

}  // namespace
}  // namespace underfoot::testing
