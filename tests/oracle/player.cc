#include "tests/oracle/player.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"
#include "mmu/check.h"
#include "tests/oracle/abstraction.h"
#include "tests/oracle/model.h"

namespace underfoot::oracle {
namespace {

thread_local Player* player_of_this_thread = nullptr;

// What waits for readers, or for somebody who does.
bool MayWaitForReaders(Kind kind) {
  switch (kind) {
    case Kind::kBegin:
    case Kind::kRefresh:
    case Kind::kActivate:
    case Kind::kDeactivate:
    case Kind::kCreateSlot:
    case Kind::kDeleteSlot:
    case Kind::kMoveSlot:
    case Kind::kSetFlags:
    case Kind::kCollect:
    case Kind::kMapBlock:
    case Kind::kSubscribe:
    case Kind::kUnsubscribe:
      return true;
    default:
      return false;
  }
}

}  // namespace

Player::Player(World& world, unsigned thread, uint64_t seed)
    : world_(world),
      thread_(thread),
      seed_(seed),
      draw_(seed, thread),
      sections_(thread, compared_),
      deeds_(world, sections_, compared_) {
  UNDERFOOT_CHECK(thread < kMaxThreads, "a page has no word for this thread", thread, kMaxThreads);
  player_of_this_thread = this;
  RenewReaders();
}

Player::~Player() {
  LeaveSections();
  world_.GiveBackTag(worker_->tag());
  world_.GiveBackTag(looker_->tag());
  player_of_this_thread = nullptr;
}

Player& Player::OfThisThread() { return *player_of_this_thread; }

void Player::Play(uint64_t operations) {
  const uint64_t end = made_ + operations;
  while (made_ < end && !world_.failed()) Turn();
  LeaveSections();
}

void Player::Turn() {
  constexpr uint64_t kTurnsPerSharedTurn = 128;
  constexpr uint64_t kTurnsPerRenewal = 4096;
  ++turns_;
  if (turns_ % kTurnsPerRenewal == 0) RenewReaders();
  if (turns_ % kTurnsPerSharedTurn == 0) return SharedTurn(turns_ / kTurnsPerSharedTurn);
  Island& island = world_.island(draw_.Below(kIslands));
  Lock(island);
  std::lock_guard unlock(island.mutex, std::adopt_lock);
  MakeOneOf(island);
}

void Player::Lock(Island& island) {
  if (!sections_.empty()) {
    if (island.mutex.try_lock()) return;
    // Its holder may be in a Begin that waits for one of them.
    ++compared_.waits;
    LeaveSections();
  }
  island.mutex.lock();
}

void Player::LeaveSections() {
  const std::string wrong = sections_.LeaveAll();
  if (!wrong.empty()) Fail(nullptr, wrong);
}

// Registers anew, in the middle of everything.
void Player::RenewReaders() {
  LeaveSections();
  for (std::optional<Reader>* reader : {&worker_, &looker_}) {
    if (reader->has_value()) world_.GiveBackTag((*reader)->tag());
    reader->reset();
    reader->emplace(world_.mmu().readers());
    ++compared_.registrations;
    if (!world_.TakeTag((*reader)->tag())) Fail(nullptr, "two readers have one tag");
  }
}

void Player::MakeOneOf(Island& island) {
  constexpr int kTries = 8;  // most of what is drawn is possible
  for (int i = 0; i < kTries; ++i) {
    if (Make(island, draw_.Any(island.number, island.state))) return;
  }
}

bool Player::Make(Island& island, const Operation& op) {
  Step step = Next(island.state, op);
  ++compared_.outcomes[static_cast<unsigned>(op.kind)][static_cast<unsigned>(step.outcome.result)];
  if (step.outcome.result == Result::kWouldWait || step.outcome.result == Result::kForbidden) {
    return false;
  }
  if (MayWaitForReaders(op.kind)) LeaveSections();
  island.state = step.state;
  if (op.kind != Kind::kLookUp) ++made_;
  island.flushes += step.state.tally.flush;
  island.history.Add({made_, thread_, op, step.outcome});
  Outcome expected = step.outcome;
  const bool asks = expected.result == Result::kAsks;
  if (asks) {
    asking_island_ = &island;
    asking_expects_ = &expected;
  }
  const bool keep = asking_island_ == nullptr && draw_.OneIn(8);
  const Outcome found = deeds_.Make(island, op, {*worker_, *looker_}, keep);
  if (asks) {
    asking_island_ = nullptr;
    asking_expects_ = nullptr;
  }
  if (!world_.failed()) Judge(island, op, expected, found);
  return true;
}

void Player::Judge(Island& island, const Operation& op, const Outcome& expected,
                   const Outcome& found) {
  digest_ =
      (digest_ ^ static_cast<uint64_t>(found.result) ^ uint64_t{found.frame} << 8) * 0x100000001b3;
  if (deeds_.has_complaint()) return Fail(&island, deeds_.TakeComplaint());
  std::string difference = DifferenceOf(
      world_, island, std::min<uint8_t>(op.cells.begin, kCells - 1), worker_->tag(), compared_);
  if (found != expected) {
    difference = absl::StrFormat("%s: expected %s, found %s; %s", NameOf(op.kind), TextOf(expected),
                                 TextOf(found), difference);
  }
  if (!difference.empty()) Fail(&island, difference);
}

PageInResult Player::PageIn(Hva page, Access access) {
  if (world_.failed()) return {};
  if (asking_expects_ == nullptr || asking_expects_->result != Result::kAsks) {
    Fail(asking_island_, "the page source was asked against expectation");
    return {};
  }
  Island& island = *asking_island_;
  const AskingState asked = island.state.asking;
  if (page != world_.HvaOf(island, asked.cell) || access != asked.access) {
    Fail(&island, absl::StrFormat("asked for hva 0x%x, expected cell %u", page.value, asked.cell));
    return {};
  }
  // The look-up comes first, last, or in the middle of what others do meanwhile.
  if (draw_.OneIn(8)) Interpose(island);
  Make(island, {.kind = Kind::kLookUp, .cells = OneCell(asked.cell)});
  const AskingState::Answer answer = island.state.asking.answer;
  if (draw_.OneIn(8)) Interpose(island);
  if (asked.who == AskingState::Who::kCache) EndWhatARefreshWaitsFor(island);
  if (world_.failed()) return {};
  Step step = Next(island.state, {.kind = Kind::kAnswered});
  ++compared_.outcomes[static_cast<unsigned>(Kind::kAnswered)]
                      [static_cast<unsigned>(step.outcome.result)];
  island.state = step.state;
  *asking_expects_ = step.outcome;
  switch (answer.mood) {
    case Mood::kAgainOnce:
      return {PageInOutcome::kAgain, {}, Access::kRead};
    case Mood::kSettling:
      return {PageInOutcome::kSettling, {}, Access::kRead};
    case Mood::kFailed:
      return {};
    case Mood::kUsual:
      break;
  }
  return {PageInOutcome::kPresent, world_.PfnAt(island, asked.cell, answer.frame),
          answer.granted_write ? Access::kWrite : Access::kRead,
          asked.who == AskingState::Who::kBlock ? 1u : 0u};
}

// What other threads might do while this one is at the page source: often a whole bracket.
void Player::Interpose(Island& island) {
  const uint64_t before = made_;
  // Nothing but a bracket keeps the host's block one, and its entry free.
  const bool block = island.state.asking.who == AskingState::Who::kBlock;
  if (block || draw_.OneIn(2)) {
    const Cells cells =
        MayHaveBlocks(island.number) ? kAllCells : OneCell(island.state.asking.cell);
    const auto index = static_cast<uint8_t>(draw_.Below(kOwnBrackets));
    const bool begun = Make(island, {.kind = Kind::kBegin, .index = index, .cells = cells});
    Make(island, {.kind = Kind::kMove, .cells = cells});
    if (begun) Make(island, {.kind = Kind::kEnd, .index = index, .cells = cells});
  } else {
    for (unsigned i = draw_.Below(4); i > 0; --i) MakeOneOf(island);
  }
  compared_.interposed += made_ - before;
}

// It waits for the End of brackets in its way and for the claims of others: they come now.
void Player::EndWhatARefreshWaitsFor(Island& island) {
  const CacheState& cache = island.state.caches[island.state.asking.cache];
  for (uint8_t index = 0; index < kOwnBrackets; ++index) {
    const BracketState& bracket = island.state.brackets[index];
    if (bracket.open && bracket.cells.Overlaps(cache.cells)) {
      Make(island, {.kind = Kind::kEnd, .index = index, .cells = cache.cells});
    }
  }
  for (uint8_t index = 0; index < kClaimants; ++index) {
    Make(island, {.kind = Kind::kAbandon, .index = index, .cells = cache.cells});
  }
}

void Player::Fail(const Island* island, const std::string& what) {
  std::string text =
      absl::StrFormat("oracle: seed %u, thread %u, operation %u", seed_, thread_, made_);
  if (island != nullptr) absl::StrAppendFormat(&text, ", island %u", island->number);
  absl::StrAppendFormat(&text, ": %s\n", what);
  if (island != nullptr) text += island->history.Text();
  world_.Fail(text);
}

}  // namespace underfoot::oracle
