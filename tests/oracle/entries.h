// The rules of stage-2 entries in the model, without concurrency: how each operation changes the
// entries of one view.
//
// Thread safety: functions of their arguments.

#ifndef UNDERFOOT_TESTS_ORACLE_ENTRIES_H_
#define UNDERFOOT_TESTS_ORACLE_ENTRIES_H_

#include <array>
#include <cstdint>

#include "tests/oracle/state.h"

namespace underfoot::oracle {

// Returns kClaimed, kPresent, kBusy, or kTable.
Result TryClaim(View& view, uint8_t cell, bool block, Access access, Owner owner);

// Returns false if the claim was stolen.
bool Publish(View& view, uint8_t cell, Owner owner, EntryState leaf, Tally& tally);
bool Abandon(View& view, uint8_t cell, Owner owner);

// Sets the young and dirty bits as hardware does for an access.
void MarkUsed(EntryState& leaf, Access access);

// `pages` is the number of pages of each cell.
void Unmap(View& view, Cells cells, const std::array<uint16_t, kCells>& pages, Tally& tally);
void WriteProtect(View& view, Cells cells, Tally& tally);

// Each part gets the value of the block, without the tag of an owner that is relaxing it.
void Split(View& view);

// Applies a Begin to the entries of the whole island. If there is no memory for a table, a block of
// which a part is removed or loses the write permission is removed as a whole.
void Invalidate(State& state, Cells cells, InvalidationKind kind, bool no_memory = false);

// Marks the cells as written in the view's log, for the next collection.
void Log(View& view, Cells cells);

// Moves the dirty bits of the leaves into the view's log.
void CollectDirty(View& view);

// Returns whether a leaf was young.
bool Age(View& view, Cells cells, bool clear);

// A fresh leaf, as an install publishes it.
EntryState FreshLeaf(uint32_t frame, bool writable, bool dirty);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_ENTRIES_H_
