// The operations of a driver over several islands. It takes the mutexes of the islands in order.

#include <array>
#include <mutex>

#include "tests/oracle/abstraction.h"
#include "tests/oracle/driver.h"
#include "tests/oracle/model.h"

namespace underfoot::oracle {
namespace {

constexpr unsigned kLast = kIslands - 1;
// Kinds that are not operations on several islands have another meaning here.
constexpr Kind kIdle = Kind::kTranslate;
constexpr Kind kCensus = Kind::kLookUp;

// The mutexes of consecutive islands.
class IslandLocks {
 public:
  IslandLocks(World& world, unsigned first, unsigned last) {
    for (unsigned number = first; number <= last; ++number) {
      locks_[number] = std::unique_lock(world.island(number).mutex);
    }
  }

 private:
  std::array<std::unique_lock<std::mutex>, kIslands> locks_;
};

}  // namespace

void Driver::SharedTurn(uint64_t number) {
  struct Entry {
    Kind kind;
    unsigned bracket;
  };
  // Brackets over many islands are closed soon.
  static constexpr Entry kOrder[] = {{Kind::kBegin, 0},
                                     {Kind::kAge, 0},
                                     {Kind::kEnd, 0},
                                     {kIdle, 0},
                                     {kIdle, 0},
                                     {Kind::kBegin, 1},
                                     {Kind::kDeleteSlot, 0},
                                     {Kind::kBegin, 0},
                                     {Kind::kEnd, 1},
                                     {Kind::kCreateSlot, 0},
                                     {Kind::kEnd, 0},
                                     {kIdle, 0},
                                     {Kind::kEnd, 0},
                                     {Kind::kSubscribe, 0},
                                     {kIdle, 0},
                                     {kIdle, 0},
                                     {kCensus, 0},
                                     {kIdle, 0},
                                     {kIdle, 0},
                                     {kIdle, 0}};
  const Entry& entry = kOrder[number % std::size(kOrder)];
  if (entry.kind == kIdle) return;
  LeaveSections();
  std::lock_guard lock(world_.shared_mutex);
  Operation op{.kind = entry.kind, .view = kSharedView};
  op.index = static_cast<uint8_t>(kOwnBrackets + entry.bracket);
  op.flag = draw_.OneIn(op.kind == Kind::kCreateSlot ? 8 : 2);
  op.invalidation = draw_.OneIn(3) ? InvalidationKind::kProtect : InvalidationKind::kUnmap;
  SharedOperation(op);
}

void Driver::SharedOperation(Operation op) {
  World::SharedBracket& bracket =
      world_.shared_brackets[(op.index - kOwnBrackets) % kSharedBrackets];
  if (op.kind == Kind::kBegin && bracket.token.open()) return;
  unsigned first = 0;
  unsigned last = kLast;
  if (op.kind == Kind::kBegin || op.kind == Kind::kAge) {
    first = draw_.Below(kIslands);
    last = first + draw_.Below(kIslands - first);
  } else if (op.kind == Kind::kEnd && bracket.token.open()) {
    first = bracket.first;
    last = bracket.last;
  }
  const IslandLocks locks(world_, first, last);
  if (op.kind == Kind::kSubscribe && world_.island(0).state.subscriber.registered) {
    op.kind = Kind::kUnsubscribe;
  }
  if (op.kind == kCensus) {
    const std::string difference = DifferenceOfWhole(world_, compared_);
    if (!difference.empty()) Fail(nullptr, difference);
    return;
  }
  std::array<Cells, kIslands> parts{};
  for (unsigned number = first; number <= last; ++number) parts[number] = kAllCells;
  parts[first].begin = static_cast<uint8_t>(draw_.Below(kCells));
  parts[last].end =
      static_cast<uint8_t>(parts[last].begin + 1 + draw_.Below(kCells - parts[last].begin));
  Outcome expected;
  bool flush = false;
  for (unsigned number = first; number <= last; ++number) {
    Island& island = world_.island(number);
    op.cells = parts[number];
    const Step step = Next(island.state, op);
    if (step.outcome.result == Result::kForbidden) return;
    if (op.kind == Kind::kEnd) parts[number] = island.state.brackets[op.index].cells;
    if (number == first || step.outcome.result == Result::kYes) expected = step.outcome;
    island.state = step.state;
    flush = flush || step.state.tally.flush;
    island.history.Add({made_, thread_, op, step.outcome});
  }
  world_.shared_flushes += flush;  // one flush for all islands
  ++made_;
  ++compared_.outcomes[static_cast<unsigned>(op.kind)][static_cast<unsigned>(expected.result)];
  const HvaRange range{world_.HvaOf(world_.island(first), parts[first].begin),
                       world_.HvaOf(world_.island(last), parts[last].end)};
  const Outcome found = MakeShared(op, bracket, range, parts, first, last);
  for (unsigned number = first; number <= last && !world_.failed(); ++number) {
    op.cells = parts[number];
    Compare(world_.island(number), op, expected, found);
  }
}

Outcome Driver::MakeShared(const Operation& op, World::SharedBracket& bracket, HvaRange range,
                           const std::array<Cells, kIslands>& parts, unsigned first,
                           unsigned last) {
  Notifier& notifier = world_.mmu().notifier();
  switch (op.kind) {
    case Kind::kBegin:
      bracket.token = notifier.Begin({range, op.invalidation});
      bracket.first = first;
      bracket.last = last;
      for (unsigned n = first; n <= last; ++n) {
        deeds_.Freeze(world_.island(n), parts[n], op.invalidation);
      }
      return {Result::kDone};
    case Kind::kEnd: {
      const bool stray = !bracket.token.open();
      for (unsigned n = first; n <= last && !stray; ++n) {
        deeds_.Thaw(world_.island(n), parts[n]);
      }
      notifier.End(bracket.token);
      return {stray ? Result::kStray : Result::kDone};
    }
    case Kind::kAge:
      return {notifier.TestClearYoung(range, op.flag) ? Result::kYes : Result::kNo};
    default:
      return deeds_.Make(world_.island(0), op, {*worker_, *looker_}, false);
  }
}

void Driver::CleanUp() {
  std::lock_guard lock(world_.shared_mutex);
  for (unsigned k = 0; k < kSharedBrackets; ++k) {
    const auto index = static_cast<uint8_t>(kOwnBrackets + k);
    SharedOperation({.kind = Kind::kEnd, .index = index});
  }
  for (unsigned number = 0; number < kIslands; ++number) {
    Island& island = world_.island(number);
    const std::lock_guard island_lock(island.mutex);
    for (uint8_t index = 0; index < kOwnBrackets; ++index) {
      Make(island, {.kind = Kind::kEnd, .index = index});
    }
    for (uint8_t index = 0; index < kClaimants; ++index) {
      Make(island, {.kind = Kind::kAbandon, .index = index});
    }
    for (uint8_t index = 0; index < kCaches; ++index) {
      Make(island, {.kind = Kind::kDeactivate, .index = index});
    }
    for (uint8_t view = 0; view < kSharedView; ++view) {
      Make(island, {.kind = Kind::kDeleteSlot, .view = view});
    }
  }
  SharedOperation({.kind = Kind::kDeleteSlot, .view = kSharedView});
  if (world_.island(0).state.subscriber.registered) SharedOperation({.kind = Kind::kUnsubscribe});
  SharedOperation({.kind = kCensus});
}

}  // namespace underfoot::oracle
