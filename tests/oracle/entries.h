// The rules of stage-2 entries, without a word about concurrency: what each operation makes of the
// entries of one view.
//
// Thread safety: functions of their arguments.

#ifndef UNDERFOOT_TESTS_ORACLE_ENTRIES_H_
#define UNDERFOOT_TESTS_ORACLE_ENTRIES_H_

#include <array>
#include <cstdint>

#include "tests/oracle/state.h"

namespace underfoot::oracle {

// kClaimed, kPresent, kBusy, or kTable.
Result TryClaim(View& view, uint8_t cell, bool block, Access access, Owner owner);

// False: the claim was stolen.
bool Publish(View& view, uint8_t cell, Owner owner, EntryState leaf, Tally& tally);
bool Abandon(View& view, uint8_t cell, Owner owner);

// As the hardware marks what it uses.
void MarkUsed(EntryState& leaf, Access access);

// `pages`: how many each cell has.
void Unmap(View& view, Cells cells, const std::array<uint16_t, kCells>& pages, Tally& tally);
void WriteProtect(View& view, Cells cells, Tally& tally);

// Each part is what the block was, except that nobody is relaxing it.
void Split(View& view);

// What a Begin does to the whole island.
void Invalidate(State& state, Cells cells, InvalidationKind kind);

// The cells were written: for whoever collects next.
void Log(View& view, Cells cells);

// Moves the dirty bits of the leaves into the view's log.
void CollectDirty(View& view);

// Whether a leaf was young.
bool Age(View& view, Cells cells, bool clear);

// A fresh leaf, as an install publishes it.
EntryState FreshLeaf(uint32_t frame, bool writable, bool dirty);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_ENTRIES_H_
