#include "tests/oracle/entries.h"

#include <algorithm>

namespace underfoot::oracle {
namespace {

using EntryKind = EntryState::Kind;

bool HasTable(const View& view) {
  return !std::all_of(view.cells.begin(), view.cells.end(),
                      [](const EntryState& entry) { return entry.empty(); });
}

}  // namespace

void Split(View& view) {
  view.block.owner = kUnowned;
  view.cells.fill(view.block);
  view.block = {};
}

Result TryClaim(View& view, uint8_t cell, bool block, Access access, Owner owner) {
  if (block && view.block.empty() && HasTable(view)) return Result::kTable;
  EntryState* entry = block ? &view.block : &view.Deciding(cell);
  if (entry->Grants(access)) return Result::kPresent;
  if (entry->owner != kUnowned) return Result::kBusy;
  if (entry->is_leaf() && entry == &view.block && !block) {
    Split(view);
    entry = &view.cells[cell];
  }
  if (entry->empty()) entry->kind = EntryKind::kClaim;
  entry->owner = owner;
  return Result::kClaimed;
}

bool Publish(View& view, uint8_t cell, Owner owner, EntryState leaf, Tally& tally) {
  EntryState& entry = view.Deciding(cell);
  if (entry.owner != owner) return false;
  leaf.dirty = leaf.dirty || entry.dirty;
  entry = leaf;
  ++tally.maps;
  return true;
}

bool Abandon(View& view, uint8_t cell, Owner owner) {
  EntryState& entry = view.Deciding(cell);
  if (entry.owner != owner) return false;
  entry.owner = kUnowned;
  if (!entry.is_leaf()) entry = {};
  return true;
}

void MarkUsed(EntryState& leaf, Access access) {
  leaf.young = true;
  leaf.dirty = leaf.dirty || access == Access::kWrite;
}

void Unmap(View& view, Cells cells, const std::array<uint16_t, kCells>& pages, Tally& tally) {
  if (!view.block.empty()) {
    ++tally.unmaps;
    tally.flush = tally.flush || view.block.is_leaf();
    if (view.block.dirty) Log(view, cells);
    if (!view.block.is_leaf() || cells == kAllCells) {
      view.block = {};
      return;
    }
    Split(view);  // into a table that lacks the cells: they do not count again
    std::fill(view.cells.begin() + cells.begin, view.cells.begin() + cells.end, EntryState{});
    return;
  }
  for (uint8_t cell = cells.begin; cell < cells.end; ++cell) {
    EntryState& entry = view.cells[cell];
    tally.unmaps += entry.is_leaf() ? pages[cell] : !entry.empty();
    tally.flush = tally.flush || entry.is_leaf();
    if (entry.dirty) Log(view, OneCell(cell));
    entry = {};
  }
}

void WriteProtect(View& view, Cells cells, Tally& tally) {
  const auto protect = [&tally](EntryState& entry) {
    if (!entry.is_leaf()) entry = {};
    tally.flush = tally.flush || entry.writable;
    entry.writable = false;
    entry.owner = kUnowned;
  };
  if (view.block.empty() || (view.block.writable && cells != kAllCells)) {
    if (!view.block.empty()) Split(view);
    std::for_each(view.cells.begin() + cells.begin, view.cells.begin() + cells.end, protect);
  } else {
    protect(view.block);
  }
}

void Invalidate(State& state, Cells cells, InvalidationKind kind, bool no_memory) {
  const bool unmap = kind == InvalidationKind::kUnmap;
  for (CacheState& cache : state.caches) {
    const bool concerned = unmap || cache.writable;
    if (concerned && cache.listed.Overlaps(cells)) cache.validity = CacheState::Validity::kInvalid;
  }
  for (View& view : state.views) {
    if (!view.present) continue;
    const bool splits =
        view.block.is_leaf() && cells != kAllCells && (unmap || view.block.writable);
    if (splits && no_memory) {
      Unmap(view, kAllCells, state.pages, state.tally);
      continue;
    }
    if (unmap) Unmap(view, cells, state.pages, state.tally);
    if (!unmap) WriteProtect(view, cells, state.tally);
  }
  state.subscriber.invalidated += state.subscriber.registered;
}

void CollectDirty(View& view) {
  if (view.block.dirty) Log(view, kAllCells);
  view.block.dirty = false;
  for (uint8_t cell = 0; cell < kCells; ++cell) {
    if (view.cells[cell].dirty) Log(view, OneCell(cell));
    view.cells[cell].dirty = false;
  }
}

void Log(View& view, Cells cells) {
  if (view.log_dirty) view.logged = static_cast<uint8_t>(view.logged | BitsOf(cells));
}

bool Age(View& view, Cells cells, bool clear) {
  bool young = false;
  const auto age = [&](EntryState& entry) {
    young = young || entry.young;
    entry.young = entry.young && !clear;
  };
  age(view.block);
  std::for_each(view.cells.begin() + cells.begin, view.cells.begin() + cells.end, age);
  return young;
}

EntryState FreshLeaf(uint32_t frame, bool writable, bool dirty) {
  return {.kind = EntryKind::kLeaf,
          .writable = writable,
          .young = true,
          .dirty = dirty,
          .owner = kUnowned,
          .frame = frame};
}

}  // namespace underfoot::oracle
