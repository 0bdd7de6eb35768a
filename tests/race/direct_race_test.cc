// System calls on guest memory against invalidations and memslot updates: both orders of each pair of
// steps in mmu/direct_requests.h. What is announced, and not the system call, is tested here.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "tests/race/race_test.h"

namespace underfoot::testing {
namespace {

class DirectRaceTest : public RaceTest {
 protected:
  static GfnRange Gfns(uint64_t page, uint64_t pages = 1) {
    return {GfnAt(page), GfnAt(page + pages)};
  }

  // A worker that announces and withdraws a request on a thread of its own.
  class Worker {
   public:
    Worker(DirectRaceTest& test, GfnRange gfns)
        : request_(test.MakeRequest()), task_("worker", [this, gfns] {
            hva_ = request_->TryAnnounce(gfns);
            undisturbed_ = hva_.has_value() && request_->Withdraw();
          }) {}
    Task& task() { return task_; }
    bool announced() {
      task_.Join();
      return hva_.has_value();
    }
    // The bytes of the system call are where they belong.
    bool undisturbed() {
      task_.Join();
      return undisturbed_;
    }

   private:
    std::unique_ptr<DirectRequest> request_;
    std::optional<Hva> hva_;
    bool undisturbed_ = false;
    Task task_;
  };

  std::unique_ptr<DirectRequest> MakeRequest() {
    return std::make_unique<DirectRequest>(mmu_.direct_requests(), mmu_.in_flight(),
                                           mmu_.memslots());
  }
  bool Announced(uint64_t page) { return mmu_.direct_requests().AnnouncedOver(host_.Pages(page)); }
};

TEST_F(DirectRaceTest, ARequestThatNothingMeetsIsUndisturbed) {
  const auto request = MakeRequest();
  EXPECT_EQ(request->TryAnnounce(Gfns(4, 3)), host_.PageAt(4));
  EXPECT_FALSE(Announced(3));
  EXPECT_TRUE(Announced(4));
  EXPECT_TRUE(Announced(6));
  EXPECT_FALSE(Announced(7));
  MovePage(3);
  MovePage(7);
  EXPECT_TRUE(request->Withdraw());
  EXPECT_FALSE(Announced(4));
}

// It returns although the system call lasts on: nothing waits for a request.
TEST_F(DirectRaceTest, ABeginMarksTheRequestThatItMeetsAndDoesNotWaitForIt) {
  const auto request = MakeRequest();
  ASSERT_TRUE(request->TryAnnounce(Gfns(4, 3)).has_value());
  MovePage(6);
  EXPECT_TRUE(Announced(6));
  EXPECT_FALSE(request->Withdraw());
  ASSERT_TRUE(request->TryAnnounce(Gfns(4, 3)).has_value()) << "the mark is of the request before";
  EXPECT_TRUE(request->Withdraw());
}

//   worker                          Begin
//                                   a the range goes in flight
//   1 word := range
//   2 finds the bracket: by a buffer
//                                   End
TEST_F(DirectRaceTest, ABracketThatIsInFlightRefusesTheRequest) {
  const auto request = MakeRequest();
  {
    OpenBracket bracket = Begin(5);
    EXPECT_FALSE(request->TryAnnounce(Gfns(4, 3)).has_value());
    EXPECT_FALSE(Announced(5));
  }
  EXPECT_TRUE(request->TryAnnounce(Gfns(4, 3)).has_value());
  EXPECT_TRUE(request->Withdraw());
}

//   worker                          Begin
//                                   a the range goes in flight
//   1 word := range
//                                   b marks the word
//   2 finds the bracket
TEST_F(DirectRaceTest, ABeginBetweenItsTwoStepsIsFoundByTheWorker) {
  Gate gate("begin-in-flight");
  Task host("host", [this] { MovePage(5); });
  ASSERT_TRUE(StopsAt(gate, host));
  const auto request = MakeRequest();
  EXPECT_FALSE(request->TryAnnounce(Gfns(5)).has_value());
  gate.Open();
}

//   worker                          Begin
//   1 word := range
//                                   a in flight; b marks the word; the host; End
//   2 finds no bracket
//   3 the system call
//   4 finds the mark: again
TEST_F(DirectRaceTest, AWholeBracketAfterTheAnnouncementIsNotMissed) {
  Gate gate("direct-announced");
  Worker worker(*this, Gfns(5));
  ASSERT_TRUE(StopsAt(gate, worker.task()));
  MovePage(5);
  gate.Open();
  EXPECT_TRUE(worker.announced());
  EXPECT_FALSE(worker.undisturbed());
}

//   worker                          Begin
//                                   a in flight; b finds no word; the host; End
//   1 word := range; 2, 3, 4: it has the new page
TEST_F(DirectRaceTest, AWholeBracketBeforeTheAnnouncementIsOfNoConcern) {
  Gate gate("direct-not-announced");
  Worker worker(*this, Gfns(5));
  ASSERT_TRUE(StopsAt(gate, worker.task()));
  MovePage(5);
  gate.Open();
  EXPECT_TRUE(worker.undisturbed());
}

//   worker                          Begin
//   1, 2, 3 the call has returned
//                                   a, b marks the word; the host; End
//   4 finds the mark
TEST_F(DirectRaceTest, ABracketBetweenTheCallAndTheWithdrawalIsNotMissed) {
  Gate gate("direct-returned");
  Worker worker(*this, Gfns(5));
  ASSERT_TRUE(StopsAt(gate, worker.task()));
  MovePage(5);
  gate.Open();
  EXPECT_FALSE(worker.undisturbed());
}

//   worker                          update
//   finds the slot
//                                   the slot is deleted; no word to mark
//   1 word := range
//   2 finds another slot
TEST_F(DirectRaceTest, AMemslotThatGoesBeforeTheAnnouncementRefusesTheRequest) {
  Gate gate("direct-not-announced");
  Worker worker(*this, Gfns(5));
  ASSERT_TRUE(StopsAt(gate, worker.task()));
  MoveSlot();
  gate.Open();
  EXPECT_FALSE(worker.announced());
}

//   worker                          update
//   1, 2, 3
//                                   the slot is deleted: marks the word
//                                   its gfns get other memory
//   4 finds the mark: again, to the new memory
TEST_F(DirectRaceTest, AMemslotThatMovesDuringTheCallMarksTheRequest) {
  const auto request = MakeRequest();
  ASSERT_TRUE(request->TryAnnounce(Gfns(5)).has_value());
  MoveSlot();
  EXPECT_TRUE(Announced(5)) << "the old memory must stay reserved";
  EXPECT_FALSE(request->Withdraw());
  EXPECT_FALSE(Announced(5));
  EXPECT_EQ(request->TryAnnounce(Gfns(5)), host_.PageAt(kPages / 2 + 5));
  EXPECT_TRUE(request->Withdraw());
}

TEST_F(DirectRaceTest, AMemslotThatBecomesReadOnlyMarksTheRequestAndRefusesTheNext) {
  const auto request = MakeRequest();
  ASSERT_TRUE(request->TryAnnounce(Gfns(5)).has_value());
  ASSERT_TRUE(mmu_.SetMemslotFlags(kSlot, {.read_only = true}).ok());
  EXPECT_FALSE(request->Withdraw());
  EXPECT_FALSE(request->TryAnnounce(Gfns(5)).has_value());
}

TEST_F(DirectRaceTest, ARangeThatIsInNoSingleSlotIsRefused) {
  const auto request = MakeRequest();
  EXPECT_FALSE(request->TryAnnounce(Gfns(kPages / 2 - 1, 2)).has_value());
  EXPECT_FALSE(request->TryAnnounce(Gfns(kPages / 2)).has_value());
  EXPECT_FALSE(request->TryAnnounce(Gfns(3, 0)).has_value());
  EXPECT_TRUE(request->TryAnnounce(Gfns(kPages / 2 - 1)).has_value());
  EXPECT_TRUE(request->Withdraw());
}

TEST_F(DirectRaceTest, AWorkerForWhichThereIsNoWordGoesByABuffer) {
  std::vector<std::unique_ptr<DirectRequest>> others;
  for (unsigned i = 0; i < DirectRequests::kMost; ++i) others.push_back(MakeRequest());
  EXPECT_FALSE(MakeRequest()->TryAnnounce(Gfns(5)).has_value());
  ASSERT_TRUE(others.back()->TryAnnounce(Gfns(5)).has_value());
  MovePage(5);
  EXPECT_FALSE(others.back()->Withdraw());
  others.erase(others.begin() + 7);
  const auto next = MakeRequest();
  EXPECT_TRUE(next->TryAnnounce(Gfns(5)).has_value());
  EXPECT_TRUE(next->Withdraw());
}

}  // namespace
}  // namespace underfoot::testing
