#include "mmu/stage2/stage2.h"

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/age_visitor.h"
#include "mmu/stage2/dirty_visitor.h"
#include "mmu/stage2/split.h"
#include "mmu/stage2/split_visitor.h"
#include "mmu/stage2/unlink.h"
#include "mmu/stage2/unmap_visitor.h"
#include "mmu/stage2/walker.h"
#include "mmu/stage2/wrprotect_visitor.h"

namespace underfoot {
Stage2::Stage2(uint64_t retired_cap_bytes) : retired_(retired_cap_bytes) { counters_.tables.Add(); }

Stage2::~Stage2() {
  TearDown(kGuestFrames);
  retired_.Drain();
  UNDERFOOT_CHECK(counters_.tables.Get() == 1, "tables are left after teardown",
                  counters_.tables.Get(), 0);
}

// Only a thread that retires tables waits for the backlog, here as in Finish. A claim or an Abandon
// that has unlinked no table does not wait.
void Stage2::RetireAndThrottle(RetiredBatch& batch) {
  if (batch.empty()) return;
  retired_.HandOver(batch);
  ThrottleRetired();
}

ClaimResult Stage2::TryClaim(Gfn gfn, unsigned level, Access access, OwnerTag tag) {
  UNDERFOOT_CHECK(kGuestFrames.Contains(gfn) && level <= kMaxLeafLevel, "claim outside of stage-2",
                  gfn.value, level);
  ClaimResult result{ClaimOutcome::kBusy, Pte()};
  RetiredBatch batch;
  try {
    rcu::ReadScope rcu;
    while (ClaimFromRoot(gfn, level, access, tag, result, batch) == StepOutcome::kRestart) {
      counters_.walk_retries.Add();
    }
  } catch (...) {  // no memory for a table: nothing was claimed
    retired_.HandOver(batch);
    throw;
  }
  RetireAndThrottle(batch);
  return result;
}

Stage2::StepOutcome Stage2::ClaimFromRoot(Gfn gfn, unsigned level, Access access, OwnerTag tag,
                                          ClaimResult& result, RetiredBatch& batch) {
  Table* table = &root_;
  for (;;) {
    Entry& entry = table->entries[IndexOf(gfn, table->level)];
    Pte pte = entry.Load();
    if (pte.empty()) return ClaimHole(*table, entry, gfn, level, tag, result, batch);
    if (pte.is_table()) {
      Table* child = pte.table();
      if (child->dead()) {
        UnlinkDead(*table, entry, *child, counters_,
                   batch);  // no thread waits for the one that killed it
        return StepOutcome::kRestart;
      }
      if (table->level == level) {
        result = {ClaimOutcome::kTable, pte};
        return StepOutcome::kDone;
      }
      table = child;
      continue;
    }
    if (pte.Grants(access)) {
      result = {ClaimOutcome::kPresent, pte};
      return StepOutcome::kDone;
    }
    if (pte.is_claim() || pte.tag() != 0) {
      result = {ClaimOutcome::kBusy, pte};
      return StepOutcome::kDone;
    }
    if (table->level > level) {
      // To relax one page of a block, and not the block: the page gets an entry of its own first.
      const GfnRange covers = EntryRange(gfn, table->level);
      PrivateTable split = BuildSplit(pte, table->level, covers, EntryRange(gfn, level),
                                      [](Pte leaf) { return leaf; });
      static_cast<void>(  // whether it succeeded or not, the entry has changed
          PublishTree(entry, pte, std::move(split), counters_));
      return StepOutcome::kRestart;
    }
    const Pte tagged = pte.WithTag(tag);
    if (!entry.Replace(pte, tagged)) return StepOutcome::kRestart;
    result = {ClaimOutcome::kClaimed, pte};
    return StepOutcome::kDone;
  }
}

// One compare-exchange publishes the missing tables with the claim already inside.
Stage2::StepOutcome Stage2::ClaimHole(Table& table, Entry& entry, Gfn gfn, unsigned level,
                                      OwnerTag tag, ClaimResult& result, RetiredBatch& batch) {
  // The allocation comes before the reference: if it failed after it, the reference would stay.
  PrivateTable chain;
  Pte desired = Pte::Claim(tag);
  if (table.level > level) {
    chain = BuildChain(gfn, table.level - 1, level, tag);
    desired = Pte::ToTable(chain.get());
  }
  UNDERFOOT_SYNC_POINT("claim-before-reference");
  if (!table.TryRef()) {
    return StepOutcome::kRestart;  // dead: the way down helps to unlink it
  }
  // Counted first: once the claim is in the table, an invalidation may take it away at once.
  counters_.tables.Add(table.level - level);
  counters_.entries(level).Add();
  UNDERFOOT_SYNC_POINT("claim-hole");
  if (!entry.Replace(Pte(), desired)) {
    counters_.tables.Sub(table.level - level);
    counters_.entries(level).Sub();
    if (table.Unref()) Prune(root_, gfn, batch);
    return StepOutcome::kRestart;
  }
  static_cast<void>(chain.release());
  result = {ClaimOutcome::kClaimed, Pte()};
  return StepOutcome::kDone;
}

PrivateTable Stage2::BuildChain(Gfn gfn, unsigned top_level, unsigned level, OwnerTag tag) {
  PrivateTable table(new Table(top_level, 1));
  const Pte pte = top_level == level
                      ? Pte::Claim(tag)
                      : Pte::ToTable(BuildChain(gfn, top_level - 1, level, tag).release());
  table->entries[IndexOf(gfn, top_level)].InitUnpublished(pte);
  return table;
}

bool Stage2::Publish(Gfn gfn, OwnerTag tag, Pte leaf) {
  // From the root again: the table that held the claim may have died during the page-in.
  rcu::ReadScope rcu;
  const Place place = FindEntry(gfn);
  Pte pte = place.pte;
  for (;;) {
    const bool relaxing = pte.is_leaf() && pte.tag() == tag;
    if (!relaxing && pte != Pte::Claim(tag)) return false;
    UNDERFOOT_SYNC_POINT("publish-exchange");
    const bool dirty = relaxing && pte.dirty();
    if (place.entry.CompareExchange(pte, dirty ? leaf.Dirty() : leaf)) break;
    // A leaf that is being relaxed stays in use. If it has only become young, old or dirty, the tag
    // is still there. If the owner gave up then, the tag would stay and block the owner itself.
  }
  counters_.maps.Add();
  return true;
}

bool Stage2::PublishTable(Gfn gfn, OwnerTag tag, PrivateTable table) {
  UNDERFOOT_CHECK(table->count() > 1, "an empty table would never be unlinked", gfn.value, tag);
  rcu::ReadScope rcu;
  const Place place = FindEntry(gfn);
  if (place.pte != Pte::Claim(tag) || place.level != table->level + 1) return false;
  UNDERFOOT_SYNC_POINT("publish-table");
  if (!PublishTree(place.entry, place.pte, std::move(table), counters_)) return false;
  counters_.maps.Add();
  return true;
}

bool Stage2::Abandon(Gfn gfn, OwnerTag tag) {
  RetiredBatch batch;
  bool given_back = false;
  {
    rcu::ReadScope rcu;
    const Place place = FindEntry(gfn);
    Pte pte = place.pte;
    while (pte.tag() == tag && pte.is_leaf() && !given_back) {
      given_back = place.entry.CompareExchange(pte, pte.WithTag(0));  // it may have become old
    }
    if (pte == Pte::Claim(tag) && place.entry.Replace(pte, Pte())) {
      given_back = true;
      counters_.entries(place.level).Sub();
      if (place.table.Unref()) Prune(root_, gfn, batch);
    }
  }
  RetireAndThrottle(batch);
  return given_back;
}

// Unlinks the empty tables on the way to `gfn`, from the lowest up.
void Stage2::Prune(Table& parent, Gfn gfn, RetiredBatch& batch) {
  Entry& entry = parent.entries[IndexOf(gfn, parent.level)];
  const Pte pte = entry.Load();
  if (!pte.is_table()) return;
  Table& child = *pte.table();
  if (child.level > 0) Prune(child, gfn, batch);
  UnlinkIfEmpty(parent, entry, child, counters_, batch);
}

// As a walk that finds only holes. False: it takes a walk to tell.
bool Stage2::IsInHole(GfnRange range) const {
  if (!kGuestFrames.Contains(range.begin)) return false;
  const rcu::ReadScope rcu;
  const Place place = FindEntry(range.begin);
  return place.pte.empty() && range.end <= EntryRange(range.begin, place.level).end;
}

void Stage2::Unmap(GfnRange range, MmuGather& gather, DirtySink log) {
  if (IsInHole(range)) return;
  while (!range.empty() && !gather.unsplit) range.begin = UnmapSome(range, gather, log);
}

void Stage2::TearDown(GfnRange range, DirtySink log) {
  while (!range.empty()) {
    MmuGather gather;
    do {
      range.begin = UnmapSome(range, gather, log);
    } while (!range.empty() && !gather.unsplit && retired_.HasRoomFor(gather.retired));
    // A teardown whose tables keep to the cap waits for nothing: the worker frees them.
    if (retired_.HasRoomFor(gather.retired)) {
      Finish(gather);
    } else {
      FlushAndFree(gather);
    }
    if (gather.unsplit) throw std::bad_alloc();
  }
}

// Cuts off frames beyond the last one: their index in each table is that of a valid frame.
template <class Visitor>
void Stage2::WalkTables(GfnRange range, Visitor& visitor) {
  range = range.Intersect(kGuestFrames);
  rcu::ReadScope rcu;
  static_cast<void>(Walk(root_, range, visitor));
}

// Returns where it stopped.
Gfn Stage2::UnmapSome(GfnRange range, MmuGather& gather, DirtySink log) {
  UnmapVisitor visitor(counters_, gather.retired, log, range.end);
  WalkTables(range, visitor);
  gather.unsplit = visitor.unsplit();
  gather.flush_due = gather.flush_due || visitor.unmapped();
  return visitor.reached();
}

Gfn Stage2::Split(GfnRange range, unsigned level, TablePool& pool) {
  SplitVisitor visitor(counters_, level, pool, range.end);
  WalkTables(range, visitor);
  return visitor.reached();
}

void Stage2::WriteProtect(GfnRange range, MmuGather& gather) {
  WriteProtectVisitor visitor(counters_, gather.retired);
  WalkTables(range, visitor);
  gather.unsplit = visitor.unsplit();
  gather.flush_due = gather.flush_due || visitor.changed();
}

bool Stage2::Flush(MmuGather& gather) {
  const bool flush = std::exchange(gather.flush_due, false);
  if (flush) counters_.flushes.Add();
  return flush;
}

void Stage2::FlushAndFree(MmuGather& gather) {
  static_cast<void>(Flush(gather));
  retired_.FreeAfterGracePeriod(gather.retired);
}

bool Stage2::FlushAndRetire(MmuGather& gather) {
  const bool flush = Flush(gather);
  retired_.HandOver(gather.retired);
  return flush;
}

bool Stage2::TestClearYoung(GfnRange range, bool clear) {
  AgeVisitor visitor(clear);
  WalkTables(range, visitor);
  return visitor.young();
}

void Stage2::CollectDirty(GfnRange range, DirtySink log) {
  DirtyVisitor visitor(log);
  range = range.Intersect(kGuestFrames);
  // A read section for each GiB: a large slot holds up no grace period.
  for (Gfn gfn = range.begin; gfn < range.end;) {
    const Gfn end = std::min(EntryRange(gfn, kMaxLeafLevel).end, range.end);
    WalkTables({gfn, end}, visitor);
    gfn = end;
  }
}

bool Stage2::Neighbours::UseElsewhere(Gfn gfn, Access access) {
  const std::optional<Place> place = stage2_.UseFromRoot(gfn, access);
  if (!place.has_value()) return false;
  entries_ = place->table.entries.data();
  shift_ = kIndexBits * place->level;
  table_ = gfn.value >> shift_ >> kIndexBits;
  return true;
}

uint64_t Stage2::UseRange(GfnRange gfns, Access access) {
  Neighbours leaves(*this);
  Gfn gfn = gfns.begin;
  while (gfn < gfns.end && leaves.Use(gfn, access)) gfn += 1;
  return gfn - gfns.begin;
}

Stage2::Path Stage2::WalkPath(Gfn gfn) const {
  rcu::ReadScope rcu;
  Path path{.entries = {}, .last_level = kLevels - 1};
  if (!kGuestFrames.Contains(gfn)) return path;
  Table* table = &root_;
  for (;;) {
    const Pte pte = table->entries[IndexOf(gfn, table->level)].Load();
    path.entries[table->level] = pte;
    path.last_level = table->level;
    if (!pte.is_table()) return path;
    table = pte.table();
  }
}

Stage2Stats Stage2::Stats() const {
  // Read first, so that the difference is never negative.
  const uint64_t entries_freed = retired_.entries_freed();
  return {.leaves_4k = counters_.entries_4k.Get() - entries_freed,
          .leaves_2m = counters_.entries_2m.Get(),
          .tables = counters_.tables.Get(),
          .maps = counters_.maps.Get(),
          .unmaps = counters_.unmaps.Get() + entries_freed,
          .walk_retries = counters_.walk_retries.Get(),
          .flushes = counters_.flushes.Get(),
          .leaves_1g = counters_.entries_1g.Get()};
}

}  // namespace underfoot
