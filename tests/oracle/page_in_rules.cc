#include "tests/oracle/page_in_rules.h"

#include <algorithm>
#include <utility>

#include "tests/oracle/entries.h"
#include "tests/oracle/model.h"

namespace underfoot::oracle {
namespace {

using Validity = CacheState::Validity;
using Caller = PageInState::Caller;

uint8_t PagesOf(const CacheState& cache) {
  return static_cast<uint8_t>(cache.cells.end - cache.cells.begin);
}

// A fault up to its call of the page source.
Outcome FaultToQuestion(State& state, uint8_t view_index, uint8_t cell, Access access) {
  View& view = state.views[view_index];
  if (!view.present) return {Result::kNoMemslot};
  if (view.read_only && access == Access::kWrite) return {Result::kReadOnly};
  const EntryState block = view.block;
  const Result claimed = TryClaim(view, cell, false, access, kFaulter);
  if (claimed == Result::kPresent) {
    EntryState& leaf = view.Deciding(cell);
    MarkUsed(leaf, access);
    return {Result::kPresent, leaf.frame};
  }
  if (claimed != Result::kClaimed) return {Result::kBusy};
  if (InFlight(state, OneCell(cell))) {
    Abandon(view, cell, kFaulter);
    return {Result::kBlocked};
  }
  state.page_in.block = view.block.empty() ? block : EntryState{};
  state.page_in.view = view_index;
  state.page_in.cell = cell;
  state.page_in.access = access;
  state.page_in.read_only = view.read_only;
  return {Result::kAsks};
}

Outcome FaultFromAnswer(State& state) {
  const PageInState& page_in = state.page_in;
  View& view = state.views[page_in.view];
  const bool given_back =
      page_in.answer.mood != Mood::kUsual && Abandon(view, page_in.cell, kFaulter);
  switch (page_in.answer.mood) {
    case Mood::kAgainOnce:
      return {Result::kAgain};
    case Mood::kRemovalPending:
      return {Result::kRemovalPending};
    case Mood::kFailed:
      return {given_back ? Result::kFailed : Result::kAgain};
    case Mood::kUsual:
      break;
  }
  const EntryState leaf =
      FreshLeaf(page_in.answer.frame, page_in.answer.granted_write && !page_in.read_only,
                page_in.access == Access::kWrite);
  if (!Publish(view, page_in.cell, kFaulter, leaf, state.tally)) return {Result::kAgain};
  return {Result::kMapped, leaf.frame};
}

Outcome FinishRefresh(State& state, Result result) {
  CacheState& cache = state.caches[state.page_in.cache];
  if (result != Result::kValid) cache.validity = Validity::kInvalid;
  const bool fails = result == Result::kNoMemslot || result == Result::kFailed;
  if (state.page_in.activating) {
    if (fails) {
      cache.active = false;
      cache.listed = {};
    } else {
      result = Result::kDone;
    }
  }
  state.page_in = {};
  return {result};
}

Outcome StartRefresh(State& state);

// Whether the key of a gpa-keyed cache lies in a memslot.
bool IsThere(const State& state, const CacheState& cache) {
  const View& view = state.views[cache.view];
  return view.present && view.place == cache.place;
}

void TakePage(State& state, uint32_t frame) {
  if (state.page_in.page == 0) state.caches[state.page_in.cache].frame = frame;
  ++state.page_in.page;
}

// Continues from page to page, up to the next call of the page source or to the end.
Outcome ContinueRefresh(State& state) {
  PageInState& page_in = state.page_in;
  CacheState& cache = state.caches[page_in.cache];
  const Access access = cache.writable ? Access::kWrite : Access::kRead;
  while (page_in.page < PagesOf(cache)) {
    const auto cell = static_cast<uint8_t>(cache.cells.begin + page_in.page);
    if (!cache.gpa_keyed) {
      page_in.cell = cell;
      page_in.access = access;
      return {Result::kAsks};
    }
    if (!IsThere(state, cache)) return FinishRefresh(state, Result::kNoMemslot);
    const Outcome fault = FaultToQuestion(state, cache.view, cell, access);
    if (fault.result == Result::kNoMemslot || fault.result == Result::kReadOnly) {
      return FinishRefresh(state, Result::kNoMemslot);
    }
    if (fault.result != Result::kPresent) return fault;
    TakePage(state, fault.frame);
  }
  // An update of the slot that concerns the cache has made it invalid.
  if (cache.validity != Validity::kPending) return StartRefresh(state);
  cache.validity = Validity::kValid;
  return FinishRefresh(state, Result::kValid);
}

Outcome StartRefresh(State& state) {
  PageInState& page_in = state.page_in;
  CacheState& cache = state.caches[page_in.cache];
  cache.validity = Validity::kInvalid;
  if (cache.gpa_keyed) {
    const View& view = state.views[cache.view];
    if (!IsThere(state, cache) || (view.read_only && cache.writable)) {
      return FinishRefresh(state, Result::kNoMemslot);
    }
  }
  cache.listed = cache.cells;
  cache.validity = Validity::kPending;
  page_in.page = 0;
  return ContinueRefresh(state);
}

// A refresh would wait for the End of overlapping brackets and for the claims of others.
bool RefreshWouldWait(const State& state, const CacheState& cache) {
  if (state.page_in.caller != Caller::kNone) return true;
  if (InFlight(state, cache.cells)) return true;
  const View& view = state.views[cache.view];
  for (uint8_t cell = cache.cells.begin; cache.gpa_keyed && cell < cache.cells.end; ++cell) {
    if (view.Deciding(cell).owner != kUnowned) return true;
  }
  return false;
}

void KeyCache(State& state, const Operation& operation) {
  CacheState& cache = state.caches[operation.index];
  cache.validity = Validity::kInvalid;
  cache.gpa_keyed = operation.flag;
  cache.writable = operation.access == Access::kWrite;
  cache.view = operation.view;
  cache.place = state.views[operation.view].place;
  cache.cells = operation.cells;
}

// Whether the host has the pages as one block, or will have them as one after they are written.
bool HostHasBlock(const State& state, Access access) {
  return std::all_of(state.host.begin(), state.host.end(), [&](const HostCell& cell) {
    return cell.mood == Mood::kUsual && cell.frame == state.host[0].frame &&
           (access == Access::kWrite || cell.writable == state.host[0].writable);
  });
}

// If the claim was stolen, the operation claims again, because no other operation has put an entry
// in its place.
Outcome ClaimBlock(State& state) {
  PageInState& page_in = state.page_in;
  View& view = state.views[page_in.view];
  const Result claimed = TryClaim(view, 0, true, page_in.access, kFaulter);
  if (claimed == Result::kClaimed) return {Result::kAsks};
  if (claimed == Result::kPresent) MarkUsed(view.block, page_in.access);
  page_in = {};
  return {claimed == Result::kPresent ? Result::kMapped : Result::kForbidden};
}

// It gives up where MapBlock would ask once more.
Outcome BlockFaultFromAnswer(State& state) {
  const PageInState page_in = std::exchange(state.page_in, {});
  View& view = state.views[page_in.view];
  const bool write = page_in.fault_access == Access::kWrite;
  if (page_in.answer.mood != Mood::kUsual || (write && !page_in.answer.granted_write)) {
    static_cast<void>(Abandon(view, 0, kFaulter));
    return {Result::kNo};
  }
  const EntryState leaf =
      FreshLeaf(page_in.answer.frame, page_in.answer.granted_write && !page_in.read_only, write);
  return {Publish(view, 0, kFaulter, leaf, state.tally) ? Result::kMapped : Result::kNo};
}

Outcome BlockFromAnswer(State& state) {
  if (state.page_in.by_fault) return BlockFaultFromAnswer(state);
  PageInState& page_in = state.page_in;
  View& view = state.views[page_in.view];
  const EntryState leaf =
      FreshLeaf(page_in.answer.frame, page_in.answer.granted_write && !view.read_only,
                page_in.access == Access::kWrite);
  if (!Publish(view, 0, kFaulter, leaf, state.tally)) return ClaimBlock(state);
  page_in = {};
  return {Result::kMapped};
}

// There was no memory for the claim of the last call of the page source.
void TakeQuestionBack(State& state) {
  const PageInState& page_in = state.page_in;
  if (page_in.caller == Caller::kNone) return;
  const bool by_hva = page_in.caller == Caller::kCache && !state.caches[page_in.cache].gpa_keyed;
  if (by_hva) return;
  View& view = state.views[page_in.view];
  Abandon(view, page_in.cell, kFaulter);
  if (page_in.block.empty()) return;
  view.cells.fill({});
  view.block = page_in.block;
}

}  // namespace

void RunOut(State& state, const Operation& operation) {
  TakeQuestionBack(state);
  state.page_in = {};
  if (operation.kind == Kind::kRefresh) {
    state.caches[operation.index].validity = Validity::kInvalid;
  }
  if (operation.kind == Kind::kActivate) {
    KeyCache(state, operation);
    state.caches[operation.index].active = false;
    state.caches[operation.index].listed = {};
  }
}

Outcome MapBlock(State& state, const Operation& op) {
  const View& view = state.views[op.view];
  if (state.page_in.caller != Caller::kNone || InFlight(state, kAllCells))
    return {Result::kWouldWait};
  if (!state.may_have_blocks || !view.present || !HostHasBlock(state, op.access))
    return {Result::kForbidden};
  if (view.read_only && op.access == Access::kWrite) return {Result::kForbidden};
  if (op.flag) Invalidate(state, kAllCells, InvalidationKind::kUnmap);
  // If a block is present, its pages are relaxed one by one.
  if (view.block.is_leaf() && !view.block.Grants(op.access)) return {Result::kForbidden};
  state.page_in.caller = Caller::kBlock;
  state.page_in.view = op.view;
  state.page_in.access = op.access;
  return ClaimBlock(state);
}

Outcome FaultBlock(State& state, const Operation& op) {
  View& view = state.views[op.view];
  if (state.page_in.caller != Caller::kNone) return {Result::kWouldWait};
  if (!state.may_have_blocks || !view.present || !HostHasBlock(state, Access::kRead) ||
      (view.read_only && op.access == Access::kWrite)) {
    return {Result::kForbidden};
  }
  // To relax a whole block takes two answers of the page source.
  if (view.block.is_leaf() && !view.block.Grants(op.access)) return {Result::kForbidden};
  const Result claimed = TryClaim(view, 0, true, op.access, kFaulter);
  if (claimed == Result::kPresent) {
    MarkUsed(view.block, op.access);
    return {Result::kPresent};
  }
  if (claimed != Result::kClaimed) return {Result::kNo};
  if (InFlight(state, kAllCells)) {
    static_cast<void>(Abandon(view, 0, kFaulter));
    return {Result::kNo};
  }
  state.page_in.caller = Caller::kBlock;
  state.page_in.by_fault = true;
  state.page_in.view = op.view;
  state.page_in.fault_access = op.access;
  state.page_in.read_only = view.read_only;
  return {Result::kAsks};
}

Outcome Fault(State& state, uint8_t view, uint8_t cell, Access access) {
  // Only one operation is at the page source at a time. The fault of a second thread may find the
  // entry busy or blocked, but may not call the page source.
  const PageInState page_in = state.page_in;
  const Outcome outcome = FaultToQuestion(state, view, cell, access);
  if (outcome.result == Result::kAsks) {
    if (page_in.caller != Caller::kNone) return {Result::kWouldWait};
    state.page_in.caller = Caller::kFault;
  }
  return outcome;
}

Outcome Refresh(State& state, uint8_t index) {
  const CacheState& cache = state.caches[index];
  // A thread that is at the page source for a cache holds the refresh lock of this cache and takes
  // no second one.
  if (state.page_in.caller == Caller::kCache) return {Result::kWouldWait};
  if (!cache.active) return {Result::kInactive};
  if (cache.validity == Validity::kValid) return {Result::kValid};
  if (RefreshWouldWait(state, cache)) return {Result::kWouldWait};
  state.page_in.caller = Caller::kCache;
  state.page_in.cache = index;
  return StartRefresh(state);
}

Outcome Activate(State& state, const Operation& operation) {
  CacheState& cache = state.caches[operation.index];
  if (state.page_in.caller == Caller::kCache) return {Result::kWouldWait};
  KeyCache(state, operation);
  cache.active = true;
  if (RefreshWouldWait(state, cache)) return {Result::kWouldWait};
  state.page_in.caller = Caller::kCache;
  state.page_in.cache = operation.index;
  state.page_in.activating = true;
  return StartRefresh(state);
}

Outcome LookUp(State& state) {
  PageInState& page_in = state.page_in;
  HostCell& page = state.host[page_in.cell];
  page_in.answer = {.mood = page.mood, .granted_write = false, .frame = page.frame};
  if (page.mood == Mood::kAgainOnce) page.mood = Mood::kUsual;
  if (page_in.answer.mood == Mood::kUsual) {
    const bool block = page_in.caller == Caller::kBlock;
    for (HostCell& cell : state.host) {
      if (page_in.access == Access::kWrite && (block || &cell == &page)) cell.writable = true;
    }
    page_in.answer.granted_write = page.writable;
  }
  return {Result::kDone};
}

Outcome Answered(State& state) {
  PageInState& page_in = state.page_in;
  if (page_in.caller == Caller::kBlock) return BlockFromAnswer(state);
  if (page_in.caller == Caller::kFault) {
    const Outcome outcome = FaultFromAnswer(state);
    page_in = {};
    return outcome;
  }
  Outcome page{Result::kMapped, page_in.answer.frame};
  if (state.caches[page_in.cache].gpa_keyed) {
    page = FaultFromAnswer(state);
  } else if (page_in.answer.mood != Mood::kUsual) {
    page = {page_in.answer.mood == Mood::kAgainOnce ? Result::kAgain
            : page_in.answer.mood == Mood::kFailed  ? Result::kFailed
                                                    : Result::kRemovalPending};
  }
  const bool pending = state.caches[page_in.cache].validity == CacheState::Validity::kPending;
  if (page.result == Result::kFailed && !pending) return StartRefresh(state);
  if (page.result == Result::kRemovalPending || page.result == Result::kFailed) {
    return FinishRefresh(state, page.result);
  }
  if (page.result == Result::kMapped) TakePage(state, page.frame);
  return ContinueRefresh(state);
}

}  // namespace underfoot::oracle
