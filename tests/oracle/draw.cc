#include "tests/oracle/draw.h"

#include <algorithm>
#include <array>

#include "tests/oracle/layout.h"

namespace underfoot::oracle {
namespace {

struct Share {
  Kind kind;
  unsigned of_1024;
};
constexpr Share kShares[] = {
    {Kind::kTranslate, 150}, {Kind::kMark, 30},     {Kind::kMoveSlot, 3},  {Kind::kSetFlags, 6},
    {Kind::kCollect, 5},     {Kind::kSplit, 4},     {Kind::kMapBlock, 24}, {Kind::kCheck, 160},
    {Kind::kFault, 200},     {Kind::kRefresh, 90},  {Kind::kActivate, 24}, {Kind::kDeactivate, 12},
    {Kind::kClaim, 60},      {Kind::kPublish, 40},  {Kind::kAbandon, 8},   {Kind::kBegin, 32},
    {Kind::kEnd, 50},        {Kind::kMove, 18},     {Kind::kDiscard, 10},  {Kind::kProtect, 10},
    {Kind::kMood, 16},       {Kind::kAge, 40},      {Kind::kTouch, 4},     {Kind::kFaultBlock, 12},
    {Kind::kCreateSlot, 12}, {Kind::kDeleteSlot, 4}};

constexpr auto kTable = [] {
  std::array<Kind, 1024> table{};
  unsigned filled = 0;
  for (const Share& share : kShares) {
    for (unsigned i = 0; i < share.of_1024; ++i) table[filled++] = share.kind;
  }
  if (filled != table.size()) throw "the shares must sum up to 1024";
  return table;
}();

}  // namespace

uint8_t Draw::Page(unsigned island) {
  return static_cast<uint8_t>(MayHaveBlocks(island) ? 2 * Below(kCells / 2) : Below(kCells));
}

Cells Draw::AnyCells(unsigned island) {
  if (OneIn(MayHaveBlocks(island) ? 3 : 8)) return kAllCells;
  const unsigned begin = Below(kCells);
  const unsigned end = std::min(kCells, begin + 1 + Below(3));
  return {static_cast<uint8_t>(begin), static_cast<uint8_t>(end)};
}

// Most brackets are closed soon, so that a page is inside a bracket for about a quarter of the
// time. Some Ends are stray.
void Draw::Bracket(const State& state, Operation& op) {
  op.index = static_cast<uint8_t>(Below(kOwnBrackets));
  op.invalidation = OneIn(3) ? InvalidationKind::kProtect : InvalidationKind::kUnmap;
  for (unsigned i = 0; i < kOwnBrackets && !OneIn(16); ++i) {
    if (state.brackets[op.index].open == (op.kind == Kind::kEnd)) return;
    op.index = static_cast<uint8_t>((op.index + 1) % kOwnBrackets);
  }
}

// A page with another mood than the normal one mostly becomes normal again, so that few pages have
// another mood.
void Draw::Recover(const State& state, Operation& op) {
  op.mood = static_cast<Mood>(1 + Below(3));
  for (uint8_t cell = 0; cell < kCells && !OneIn(4); ++cell) {
    if (state.host[cell].mood == Mood::kUsual) continue;
    op.cells = OneCell(cell);
    op.mood = Mood::kUsual;
  }
}

// Logging stays on for long stretches, because each start costs a grace period.
void Draw::Update(const State& state, Operation& op) {
  op.view = static_cast<uint8_t>(Below(kSharedView));
  op.flag = op.view == 1 && OneIn(3);
  const bool logs = state.views[op.view].log_dirty;
  op.index = logs ? !OneIn(8) : OneIn(2);
  if (op.kind == Kind::kCollect && !logs) op.view = static_cast<uint8_t>(1 - op.view);
}

// Draws cells inside an open bracket.
void Draw::Host(const State& state, Operation& op) {
  const Cells cells = state.brackets[Below(kBrackets)].cells;
  if (!cells.empty()) op.cells = cells;
  if (state.may_have_blocks && op.kind != Kind::kProtect) op.cells = kAllCells;
}

void Draw::Activate(unsigned island, Operation& op) {
  const uint8_t begin = op.cells.begin;
  const unsigned longest = MayHaveBlocks(island) ? 1 : kMaxCachePages;
  const unsigned end = std::min(kCells, begin + 1 + Below(longest));
  op.cells = {begin, static_cast<uint8_t>(end)};
  op.flag = OneIn(2);
}

Operation Draw::Any(unsigned island, const State& state) {
  Operation op;
  op.kind = kTable[Below(1024)];
  op.view = static_cast<uint8_t>(Below(kViews));
  op.cells = OneCell(Page(island));
  op.access = OneIn(3) ? Access::kWrite : Access::kRead;
  op.index = static_cast<uint8_t>(Below(kCaches));
  switch (op.kind) {
    case Kind::kRefresh:
      if (state.caches[op.index].active) break;
      op.kind = Kind::kActivate;
      [[fallthrough]];
    case Kind::kActivate:
      Activate(island, op);
      break;
    case Kind::kClaim:
    case Kind::kPublish:
    case Kind::kAbandon:
      op.index = static_cast<uint8_t>(Below(kClaimants));
      op.flag = op.kind == Kind::kClaim && MayHaveBlocks(island) && OneIn(2);
      break;
    case Kind::kBegin:
    case Kind::kEnd:
      Bracket(state, op);
      op.cells = AnyCells(island);
      break;
    case Kind::kMove:
    case Kind::kDiscard:
    case Kind::kProtect:
      Host(state, op);
      break;
    case Kind::kMapBlock:
      op.flag = OneIn(2);
      break;
    case Kind::kMood:
      Recover(state, op);
      break;
    case Kind::kMark:
      op.cells = AnyCells(island);
      break;
    case Kind::kAge:
      op.cells = AnyCells(island);
      op.flag = OneIn(2);
      break;
    case Kind::kMoveSlot:
    case Kind::kSetFlags:
    case Kind::kCollect:
      Update(state, op);
      break;
    case Kind::kCreateSlot:
    case Kind::kDeleteSlot:
      op.view = static_cast<uint8_t>(Below(kSharedView));
      op.flag = op.view == 1 && OneIn(3);
      break;
    case Kind::kTranslate:
    case Kind::kCheck:
    case Kind::kFault:
    case Kind::kDeactivate:
    case Kind::kSplit:
    case Kind::kFaultBlock:
    case Kind::kTouch:
    case Kind::kSubscribe:
    case Kind::kUnsubscribe:
    case Kind::kLookUp:
    case Kind::kAnswered:
      break;
  }
  return op;
}

}  // namespace underfoot::oracle
