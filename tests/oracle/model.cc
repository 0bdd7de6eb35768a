#include "tests/oracle/model.h"

#include "tests/oracle/entries.h"
#include "tests/oracle/page_in_rules.h"

namespace underfoot::oracle {
namespace {

using Validity = CacheState::Validity;

// A bit for each cell that a bracket covers: all brackets, and those of kind kUnmap.
struct Coverage {
  explicit Coverage(const State& state) {
    for (const BracketState& bracket : state.brackets) {
      if (!bracket.open) continue;
      any |= BitsOf(bracket.cells);
      if (bracket.kind == InvalidationKind::kUnmap) unmap |= BitsOf(bracket.cells);
    }
  }
  unsigned any = 0;
  unsigned unmap = 0;
};

// Whether the open brackets allow the host to change all of the cells.
bool Covered(const State& state, Cells cells, InvalidationKind at_least) {
  const Coverage coverage(state);
  const unsigned bits = BitsOf(cells);
  return ((at_least == InvalidationKind::kUnmap ? coverage.unmap : coverage.any) & bits) == bits;
}

Outcome Translate(State& state, const Operation& op) {
  View& view = state.views[op.view];
  EntryState& entry = view.Deciding(op.cells.begin);
  if (!view.present || !entry.Grants(op.access)) return {Result::kNo};
  MarkUsed(entry, op.access);
  return {Result::kYes, entry.frame};
}

Outcome Mark(State& state, const Operation& op) {
  View& view = state.views[op.view];
  uint32_t marked = 0;
  for (uint8_t cell = op.cells.begin; view.present && cell < op.cells.end; ++cell, ++marked) {
    EntryState& entry = view.Deciding(cell);
    if (!entry.Grants(op.access)) break;
    MarkUsed(entry, op.access);
  }
  return {Result::kDone, marked};
}

Outcome Check(State& state, CacheState& cache) {
  if (cache.validity != Validity::kValid) return {Result::kNo};
  cache.young = true;
  if (cache.gpa_keyed && cache.writable) Log(state.views[cache.view], cache.cells);
  return {Result::kYes, cache.frame};
}

Outcome Deactivate(State& state, uint8_t index) {
  if (state.page_in.caller == PageInState::Caller::kCache) return {Result::kWouldWait};
  CacheState& cache = state.caches[index];
  if (!cache.active) return {Result::kDone};
  cache.active = false;
  cache.validity = Validity::kInvalid;
  cache.listed = {};
  return {Result::kDone};
}

Outcome Claim(State& state, const Operation& op) {
  ClaimState& claim = state.claims[op.index];
  View& view = state.views[op.view];
  if (claim.open || !view.present) return {Result::kForbidden};
  if (view.read_only && op.access == Access::kWrite) return {Result::kForbidden};
  const uint8_t cell = op.flag ? uint8_t{0} : op.cells.begin;
  const Cells cells = op.flag ? kAllCells : OneCell(cell);
  const Owner owner = ClaimantOwner(op.index);
  const Result claimed = TryClaim(view, cell, op.flag, op.access, owner);
  if (claimed != Result::kClaimed) return {claimed};
  if (InFlight(state, cells)) {
    Abandon(view, cell, owner);
    return {Result::kBlocked};
  }
  bool writable = true;
  for (uint8_t i = cells.begin; i < cells.end; ++i) {
    if (state.host[i].mood == Mood::kRemovalPending || state.host[i].mood == Mood::kFailed) {
      Abandon(view, cell, owner);
      return {Result::kRemovalPending};
    }
  }
  for (uint8_t i = cells.begin; i < cells.end; ++i) {
    state.host[i].writable = state.host[i].writable || op.access == Access::kWrite;
    writable = writable && state.host[i].writable;
  }
  claim = {.open = true,
           .block = op.flag,
           .granted_write = writable && !view.read_only,
           // The second claimant installs pages before they are used, so its leaves are clean.
           .dirty = op.access == Access::kWrite && op.index == 0,
           .view = op.view,
           .place = view.place,
           .cell = cell,
           .frame = state.host[cell].frame};
  return {Result::kClaimed};
}

Outcome PublishClaim(State& state, uint8_t index) {
  ClaimState& claim = state.claims[index];
  if (!claim.open) return {Result::kForbidden};
  claim.open = false;
  const EntryState leaf = FreshLeaf(claim.frame, claim.granted_write, claim.dirty);
  const bool published =
      Publish(state.views[claim.view], claim.cell, ClaimantOwner(index), leaf, state.tally);
  return {published ? Result::kMapped : Result::kStolen};
}

Outcome AbandonClaim(State& state, uint8_t index) {
  ClaimState& claim = state.claims[index];
  if (!claim.open) return {Result::kForbidden};
  claim.open = false;
  Abandon(state.views[claim.view], claim.cell, ClaimantOwner(index));
  return {Result::kDone};
}

Outcome Begin(State& state, const Operation& op) {
  BracketState& bracket = state.brackets[op.index];
  if (bracket.open) return {Result::kForbidden};
  bracket = {.open = true, .kind = op.invalidation, .cells = op.cells};
  Invalidate(state, op.cells, op.invalidation, op.no_memory);
  return {Result::kDone};
}

Outcome SplitBlock(const State& state, View& view) {
  if (!state.may_have_blocks) return {Result::kForbidden};
  if (view.block.is_leaf()) Split(view);
  return {Result::kDone};
}

Outcome End(State& state, const Operation& op) {
  BracketState& bracket = state.brackets[op.index];
  if (!bracket.open) return {Result::kStray};
  bracket = {};
  return {Result::kDone};
}

Outcome ChangeFrames(State& state, const Operation& op) {
  if (!Covered(state, op.cells, InvalidationKind::kUnmap)) return {Result::kForbidden};
  // Cells that may form a block move together, so that they can form one again.
  if (state.may_have_blocks && op.cells != kAllCells) return {Result::kForbidden};
  for (uint8_t cell = op.cells.begin; cell < op.cells.end; ++cell) {
    ++state.host[cell].frame;
    if (op.kind == Kind::kDiscard) ++state.host[cell].discards;
  }
  return {Result::kDone};
}

Outcome Protect(State& state, const Operation& op) {
  if (!Covered(state, op.cells, InvalidationKind::kProtect)) return {Result::kForbidden};
  for (uint8_t cell = op.cells.begin; cell < op.cells.end; ++cell) {
    state.host[cell].writable = false;
  }
  return {Result::kDone};
}

// The mood of a page may become kRemovalPending or kFailed only while a bracket covers the page, so
// that no translation of it is left. It may become normal again at any time.
Outcome ChangeMood(State& state, const Operation& op) {
  const bool needs_bracket = op.mood == Mood::kRemovalPending || op.mood == Mood::kFailed;
  if (needs_bracket && !Covered(state, op.cells, InvalidationKind::kUnmap)) {
    return {Result::kForbidden};
  }
  state.host[op.cells.begin].mood = op.mood;
  return {Result::kDone};
}

Outcome AgeAll(State& state, const Operation& op) {
  bool young = false;
  for (CacheState& cache : state.caches) {
    if (!cache.listed.Overlaps(op.cells)) continue;
    young = young || cache.young;
    cache.young = cache.young && !op.flag;
  }
  for (View& view : state.views) {
    if (view.present) young = Age(view, op.cells, op.flag) || young;
  }
  SubscriberState& subscriber = state.subscriber;
  if (subscriber.registered) {
    ++subscriber.asked;
    young = young || subscriber.young;
    subscriber.young = subscriber.young && !op.flag;
  }
  return {young ? Result::kYes : Result::kNo};
}

Outcome CreateSlot(State& state, const Operation& op) {
  View& view = state.views[op.view];
  if (view.present) return {Result::kNo};
  view.present = true;
  view.read_only = op.flag;
  return {Result::kDone};
}

// Removes everything that was translated by the memslot.
void Clear(State& state, View& view) {
  Unmap(view, kAllCells, state.pages, state.tally);
  for (CacheState& cache : state.caches) {
    if (cache.gpa_keyed && !cache.listed.empty()) cache.validity = Validity::kInvalid;
  }
}

Outcome MoveSlot(State& state, const Operation& op) {
  View& view = state.views[op.view];
  if (!view.present) return {Result::kNo};
  Clear(state, view);
  view.place = static_cast<uint8_t>(1 - view.place);
  return {Result::kDone};
}

Outcome SetFlags(State& state, const Operation& op) {
  View& view = state.views[op.view];
  if (!view.present) return {Result::kNo};
  const bool log_dirty = op.index != 0;
  const bool protects = op.flag && !view.read_only;
  const bool other_log = log_dirty != view.log_dirty;
  if (op.flag == view.read_only && !other_log) return {Result::kDone};
  if (protects) WriteProtect(view, kAllCells, state.tally);
  for (CacheState& cache : state.caches) {
    const bool concerned = cache.gpa_keyed && cache.writable && !cache.listed.empty();
    if (concerned && (protects || other_log)) cache.validity = Validity::kInvalid;
  }
  view.read_only = op.flag;
  view.log_dirty = log_dirty;
  if (other_log && log_dirty) CollectDirty(view);  // what was written before is not reported
  if (other_log) view.logged = 0;
  return {Result::kDone};
}

Outcome Collect(View& view) {
  if (!view.present || !view.log_dirty) return {Result::kNo};
  CollectDirty(view);
  const Outcome outcome{Result::kDone, view.logged};
  view.logged = 0;
  return outcome;
}

Outcome DeleteSlot(State& state, const Operation& op) {
  View& view = state.views[op.view];
  if (!view.present) return {Result::kNo};
  view.present = false;
  view.log_dirty = false;
  view.logged = 0;
  Clear(state, view);
  return {Result::kDone};
}

Outcome Subscribe(State& state, bool registered) {
  if (state.subscriber.registered == registered) return {Result::kForbidden};
  state.subscriber.registered = registered;
  return {Result::kDone};
}

Outcome Apply(State& state, const Operation& op) {
  switch (op.kind) {
    case Kind::kTranslate:
      return Translate(state, op);
    case Kind::kMark:
      return Mark(state, op);
    case Kind::kCheck:
      return Check(state, state.caches[op.index]);
    case Kind::kFault:
      return Fault(state, op.view, op.cells.begin, op.access);
    case Kind::kRefresh:
      return Refresh(state, op.index);
    case Kind::kActivate:
      return Activate(state, op);
    case Kind::kDeactivate:
      return Deactivate(state, op.index);
    case Kind::kClaim:
      return Claim(state, op);
    case Kind::kPublish:
      return PublishClaim(state, op.index);
    case Kind::kAbandon:
      return AbandonClaim(state, op.index);
    case Kind::kBegin:
      return Begin(state, op);
    case Kind::kEnd:
      return End(state, op);
    case Kind::kSplit:
      return SplitBlock(state, state.views[op.view]);
    case Kind::kMapBlock:
      return MapBlock(state, op);
    case Kind::kFaultBlock:
      return FaultBlock(state, op);
    case Kind::kMove:
    case Kind::kDiscard:
      return ChangeFrames(state, op);
    case Kind::kProtect:
      return Protect(state, op);
    case Kind::kMood:
      return ChangeMood(state, op);
    case Kind::kAge:
      return AgeAll(state, op);
    case Kind::kTouch:
      state.subscriber.young = true;
      return {Result::kDone};
    case Kind::kCreateSlot:
      return CreateSlot(state, op);
    case Kind::kDeleteSlot:
      return DeleteSlot(state, op);
    case Kind::kMoveSlot:
      return MoveSlot(state, op);
    case Kind::kSetFlags:
      return SetFlags(state, op);
    case Kind::kCollect:
      return Collect(state.views[op.view]);
    case Kind::kSubscribe:
      return Subscribe(state, true);
    case Kind::kUnsubscribe:
      return Subscribe(state, false);
    case Kind::kLookUp:
      return LookUp(state);
    case Kind::kAnswered:
      return Answered(state);
  }
  return {Result::kForbidden};
}

const char* BreachOfEntry(const HostCell& host, const EntryState& entry, bool in_bracket,
                          bool in_unmap) {
  if (!entry.is_leaf()) return nullptr;
  if (entry.frame != host.frame) return "a leaf is stale";
  if (entry.writable && !host.writable) return "a leaf grants what the host does not";
  if (in_unmap) return "a leaf is in a bracket";
  if (entry.writable && in_bracket) return "a leaf is writable in a bracket";
  return nullptr;
}

const char* BreachOfCache(const State& state, const CacheState& cache, const Coverage& coverage) {
  if (cache.validity != Validity::kValid) return nullptr;
  if (cache.frame != state.host[cache.cells.begin].frame) return "a cache is stale";
  const View& view = state.views[cache.view];
  if (cache.gpa_keyed && (!view.present || view.place != cache.place)) {
    return "a cache is of no memslot";
  }
  if (cache.gpa_keyed && cache.writable && view.read_only) return "a cache may write read-only";
  const unsigned bits = BitsOf(cache.cells);
  if ((bits & coverage.unmap) != 0) return "a cache is valid in a bracket";
  if (!cache.writable) return nullptr;
  if ((bits & coverage.any) != 0) return "a cache may write in a bracket";
  for (uint8_t cell = cache.cells.begin; cell < cache.cells.end; ++cell) {
    if (!state.host[cell].writable) return "a cache may write where the host forbids it";
  }
  return nullptr;
}

}  // namespace

bool InFlight(const State& state, Cells cells) {
  return (Coverage(state).any & BitsOf(cells)) != 0;
}

Step Next(const State& state, const Operation& operation) {
  Step step{state, {}};
  step.state.tally.flush = false;
  step.outcome = Apply(step.state, operation);
  return step;
}

const char* BreachOf(const State& state) {
  const Coverage coverage(state);
  for (const View& view : state.views) {
    for (uint8_t cell = 0; cell < kCells; ++cell) {
      const EntryState& entry = view.Deciding(cell);
      if (entry.empty()) continue;
      if (!view.present) return "an entry is of no memslot";
      if (entry.writable && view.read_only) return "a leaf is writable in a read-only memslot";
      const unsigned bit = 1u << cell;
      if (const char* breach = BreachOfEntry(state.host[cell], entry, (coverage.any & bit) != 0,
                                             (coverage.unmap & bit) != 0)) {
        return breach;
      }
    }
  }
  for (const CacheState& cache : state.caches) {
    if (const char* breach = BreachOfCache(state, cache, coverage)) return breach;
  }
  return nullptr;
}

}  // namespace underfoot::oracle
