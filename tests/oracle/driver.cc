#include "tests/oracle/driver.h"

#include <algorithm>
#include <array>
#include <new>
#include <optional>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "tests/oracle/abstraction.h"
#include "tests/oracle/model.h"
#include "tests/oracle/page_in_rules.h"

namespace underfoot::oracle {
namespace {

thread_local Driver* driver_of_this_thread = nullptr;

// The operations that allocate and for which memory may run out. It leaves out operations that are
// refused with a message, because Abseil ends the process if it cannot allocate while it formats a
// message. It also leaves out registration, which is an operation of all islands.
bool MayRunOut(Kind kind, Result result) {
  if (result == Result::kNo || result == Result::kNoMemslot) return false;
  switch (kind) {
    case Kind::kFault:
    case Kind::kRefresh:
    case Kind::kActivate:
    case Kind::kClaim:
    case Kind::kBegin:
    case Kind::kSplit:
    case Kind::kMapBlock:
    case Kind::kFaultBlock:
    case Kind::kCreateSlot:
    case Kind::kDeleteSlot:
    case Kind::kMoveSlot:
    case Kind::kSetFlags:
    case Kind::kCollect:
      return true;
    default:
      return false;
  }
}

// Suspends the shortage while the test itself runs in the middle of an operation.
class OwnMemory {
 public:
  OwnMemory(Shortage* shortage, bool resumes) : shortage_(shortage), resumes_(resumes) {
    if (shortage_ != nullptr) shortage_->Pause();
  }
  ~OwnMemory() {
    if (shortage_ != nullptr && resumes_) shortage_->Resume();
  }
  OwnMemory(const OwnMemory&) = delete;
  OwnMemory& operator=(const OwnMemory&) = delete;

 private:
  Shortage* const shortage_;
  const bool resumes_;
};

// Operations that wait for readers, or that may wait for a thread that waits for readers.
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

Driver::Driver(World& world, unsigned thread, uint64_t seed)
    : world_(world),
      thread_(thread),
      seed_(seed),
      draw_(seed, thread),
      sections_(thread, compared_),
      deeds_(world, sections_, compared_) {
  UNDERFOOT_CHECK(thread < kMaxThreads, "a page has no word for this thread", thread, kMaxThreads);
  driver_of_this_thread = this;
  RenewReaders();
}

Driver::~Driver() {
  LeaveSections();
  world_.GiveBackTag(worker_->tag());
  world_.GiveBackTag(looker_->tag());
  driver_of_this_thread = nullptr;
}

Driver& Driver::OfThisThread() { return *driver_of_this_thread; }

void Driver::Play(uint64_t operations) {
  const uint64_t end = made_ + operations;
  while (made_ < end && !world_.failed()) Turn();
  LeaveSections();
}

void Driver::Turn() {
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

void Driver::Lock(Island& island) {
  if (!sections_.empty()) {
    if (island.mutex.try_lock()) return;
    // The holder of the mutex may be inside a Begin that waits for one of this thread's sections.
    ++compared_.waits;
    LeaveSections();
  }
  island.mutex.lock();
}

void Driver::LeaveSections() {
  const std::string wrong = sections_.LeaveAll();
  if (!wrong.empty()) Fail(nullptr, wrong);
}

// Ends a reader and registers it again at a random time.
void Driver::RenewReaders() {
  LeaveSections();
  for (std::optional<Reader>* reader : {&worker_, &looker_}) {
    if (reader->has_value()) world_.GiveBackTag((*reader)->tag());
    reader->reset();
    reader->emplace(world_.mmu().readers());
    ++compared_.registrations;
    if (!world_.TakeTag((*reader)->tag())) Fail(nullptr, "two readers have one tag");
  }
}

void Driver::MakeOneOf(Island& island) {
  constexpr int kTries = 8;  // most drawn operations are possible
  for (int i = 0; i < kTries; ++i) {
    if (Make(island, draw_.Any(island.number, island.state))) return;
  }
}

bool Driver::Make(Island& island, const Operation& wanted) {
  Operation op = wanted;
  const State before = island.state;
  const uint64_t flushes_before = island.flushes;
  Step step = Next(island.state, op);
  const bool short_of_memory = world_.shortage != nullptr && page_in_island_ == nullptr &&
                               MayRunOut(op.kind, step.outcome.result) && draw_.OneIn(4);
  if (short_of_memory && op.kind == Kind::kBegin) {
    op.no_memory = true;
    step = Next(island.state, op);
  }
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
    page_in_island_ = &island;
    page_in_expects_ = &expected;
  }
  const bool keep = page_in_island_ == nullptr && draw_.OneIn(8);
  const Outcome found = short_of_memory
                            ? MakeShortOfMemory(island, op, before, flushes_before, expected, keep)
                            : deeds_.Make(island, op, {*worker_, *looker_}, keep);
  if (asks) {
    page_in_island_ = nullptr;
    page_in_expects_ = nullptr;
  }
  if (!world_.failed()) Compare(island, op, expected, found);
  return true;
}

// If the operation throws, it has changed nothing, or it has reached its last call of the page
// source. In the second case a collapse has made its bracket, and a cache is not valid.
Outcome Driver::MakeShortOfMemory(Island& island, const Operation& op, const State& before,
                                  uint64_t flushes_before, Outcome& expected, bool keep) {
  Shortage& shortage = *world_.shortage;
  asked_ = false;
  page_in_activates_ = op.kind == Kind::kActivate;
  std::optional<Outcome> found;
  shortage.Start(op.no_memory ? 0 : draw_.Below(6));
  try {
    found = deeds_.Make(island, op, {*worker_, *looker_}, keep);
  } catch (const std::bad_alloc&) {
  }
  page_in_activates_ = false;
  if (shortage.End()) ++compared_.ran_out[static_cast<unsigned>(op.kind)];
  if (found.has_value()) return *found;
  expected = {Result::kNoMemory};
  // An operation with steps before its first call of the page source may have reached that call.
  const bool has_steps =
      op.kind == Kind::kRefresh || op.kind == Kind::kActivate || op.kind == Kind::kMapBlock;
  if (asked_ || has_steps) {
    RunOut(island.state, op);
    const auto cell = std::min<uint8_t>(op.cells.begin, kCells - 1);
    if (asked_ || DifferenceOf(world_, island, cell, worker_->tag(), compared_).empty()) {
      return expected;
    }
  }
  island.state = before;
  island.flushes = flushes_before;
  RunOut(island.state, op);
  return expected;
}

void Driver::Compare(Island& island, const Operation& op, const Outcome& expected,
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

PageInResult Driver::PageIn(Hva page, Access access) {
  asked_ = true;
  // From here on an activation may format a message.
  const OwnMemory own_memory(world_.shortage, !page_in_activates_);
  if (world_.failed()) return {};
  if (page_in_expects_ == nullptr || page_in_expects_->result != Result::kAsks) {
    Fail(page_in_island_, "the page source was asked against expectation");
    return {};
  }
  Island& island = *page_in_island_;
  const PageInState asked = island.state.page_in;
  if (page != world_.HvaOf(island, asked.cell) || access != asked.access) {
    Fail(&island, absl::StrFormat("asked for hva 0x%x, expected cell %u", page.value, asked.cell));
    return {};
  }
  // The look-up comes before, after or between the operations that other threads make meanwhile.
  if (draw_.OneIn(8)) Interpose(island);
  Make(island, {.kind = Kind::kLookUp, .cells = OneCell(asked.cell)});
  const PageInState::Answer answer = island.state.page_in.answer;
  if (draw_.OneIn(8)) Interpose(island);
  if (asked.caller == PageInState::Caller::kCache) EndWhatARefreshWaitsFor(island);
  if (world_.failed()) return {};
  Step step = Next(island.state, {.kind = Kind::kAnswered});
  ++compared_.outcomes[static_cast<unsigned>(Kind::kAnswered)]
                      [static_cast<unsigned>(step.outcome.result)];
  island.state = step.state;
  *page_in_expects_ = step.outcome;
  switch (answer.mood) {
    case Mood::kAgainOnce:
      return {PageInOutcome::kAgain, {}, Access::kRead};
    case Mood::kRemovalPending:
      return {PageInOutcome::kRemovalPending, {}, Access::kRead};
    case Mood::kFailed:
      return {};
    case Mood::kUsual:
      break;
  }
  return {PageInOutcome::kPresent, world_.PfnAt(island, asked.cell, answer.frame),
          answer.granted_write ? Access::kWrite : Access::kRead,
          asked.caller == PageInState::Caller::kBlock ? 1u : 0u};
}

// The operations that other threads might make while this one is at the page source: often a whole
// bracket.
void Driver::Interpose(Island& island) {
  const uint64_t before = made_;
  // Only a bracket is drawn here: other operations might split the host's block or fill its entry.
  const bool block = island.state.page_in.caller == PageInState::Caller::kBlock;
  if (block || draw_.OneIn(2)) {
    const Cells cells =
        MayHaveBlocks(island.number) ? kAllCells : OneCell(island.state.page_in.cell);
    const auto index = static_cast<uint8_t>(draw_.Below(kOwnBrackets));
    const bool begun = Make(island, {.kind = Kind::kBegin, .index = index, .cells = cells});
    Make(island, {.kind = Kind::kMove, .cells = cells});
    if (begun) Make(island, {.kind = Kind::kEnd, .index = index, .cells = cells});
  } else {
    for (unsigned i = draw_.Below(4); i > 0; --i) MakeOneOf(island);
  }
  compared_.interposed += made_ - before;
}

// The operation would wait for the End of overlapping brackets and for the claims of others, so
// these are ended now.
void Driver::EndWhatARefreshWaitsFor(Island& island) {
  const CacheState& cache = island.state.caches[island.state.page_in.cache];
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

void Driver::Fail(const Island* island, const std::string& what) {
  std::string text =
      absl::StrFormat("oracle: seed %u, thread %u, operation %u", seed_, thread_, made_);
  if (island != nullptr) absl::StrAppendFormat(&text, ", island %u", island->number);
  absl::StrAppendFormat(&text, ": %s\n", what);
  if (island != nullptr) text += island->history.Text();
  world_.Fail(text);
}

}  // namespace underfoot::oracle
