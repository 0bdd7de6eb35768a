// Finds the attached ranges that overlap an interval, in logarithmic time. Readers take no lock
// while ranges are attached and detached.
//
//   entries   sorted by their begin
//   reach     a tree over their ends: node i holds the greatest end below it, its children are
//             2i and 2i+1, and the leaves are in the order of the entries
//   sides     two copies: readers use the active one; a change is made in the other one, which then
//             becomes the active one
//
// A reader announces itself on a side and then checks again that this side is still the active one.
// A change waits until the inactive side has no reader. Readers never wait, not even in a signal
// handler that interrupts a change.
//
// An index that is all zeroes is empty. In the child of a fork the memory becomes zeroes while a
// reader may be inside (a signal handler can fork). The reader then finds nothing, and its exit
// leaves the count unchanged.
//
// Thread safety: Insert and Remove must exclude each other (by the caller's lock). All other
// functions may be called by any thread.

#ifndef UNDERFOOT_VMM_HOOKS_RANGE_INDEX_H_
#define UNDERFOOT_VMM_HOOKS_RANGE_INDEX_H_

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <compare>
#include <cstdint>
#include <span>

#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::hooks {

// A place in memory (space 0) or in a file (the file's number is the space).
struct Place {
  uint64_t space = 0;
  uint64_t at = 0;
  friend constexpr auto operator<=>(const Place&, const Place&) = default;
};

struct Interval {
  Place begin;
  Place end;
};

class RangeIndex {
 public:
  struct Entry {
    Interval interval;
    uint32_t slot;
  };

  // `added`: one or two entries, sorted.
  void Insert(std::span<const Entry> added) { Change(added, kNoSlot); }
  void Remove(uint32_t slot) { Change({}, slot); }

  // The interval from the lowest to the highest range in memory. Only for the thread that changes
  // the index.
  HvaRange Hull() const {
    const Side& side = sides_[active_.load(kRelaxed)];
    return side.memory;
  }

  // Calls `visit(slot)` for each overlapping entry, until it returns false. `visit` must not
  // change the index.
  template <class Visit>
  void VisitOverlapping(const Interval& wanted, const Visit& visit);

 private:
  static constexpr uint32_t kNoSlot = UINT32_MAX;
  static constexpr uint32_t kMost = 2 * UNDERFOOT_MAX_RANGES;
  static_assert(std::has_single_bit(kMost));

  struct Side {
    // Pairs with: active_, as store buffering. A change switches the sides and then reads the
    // readers of the side that it left; a reader adds itself and then reads which side is active.
    // Without it: a reader walks a side that is being rewritten.
    std::atomic<uint32_t> readers;
    uint32_t count;
    uint32_t leaves;
    HvaRange memory;
    std::array<Entry, kMost> entries;
    std::array<Place, 2 * kMost> reach;
  };

  Side& Enter();
  static void Leave(Side& side);
  static uint32_t NextReaching(const Side& side, uint32_t leaves, uint32_t i, Place place);
  void Change(std::span<const Entry> added, uint32_t removed);

  std::atomic<uint32_t> active_;
  std::array<Side, 2> sides_;
};

inline RangeIndex::Side& RangeIndex::Enter() {
  for (;;) {
    const uint32_t active = active_.load(kStoreLoad);
    Side& side = sides_[active];
    side.readers.fetch_add(1, kStoreLoad);
    if (active_.load(kStoreLoad) == active) return side;
    Leave(side);
  }
}

// Release: pairs with the wait for readers in Change.
inline void RangeIndex::Leave(Side& side) {
  uint32_t readers = side.readers.load(kRelaxed);
  while (readers != 0 && !side.readers.compare_exchange_weak(readers, readers - 1, kRelease)) {
  }
}

// The first entry, from `i` on, whose end lies behind `place`. A result >= `leaves`: there is none.
inline uint32_t RangeIndex::NextReaching(const Side& side, uint32_t leaves, uint32_t i,
                                         Place place) {
  if (i >= leaves) return leaves;
  uint32_t node = leaves + i;
  while (side.reach[node] <= place) {
    while ((node & 1) != 0) node /= 2;  // up from a right child
    if (node == 0) return leaves;
    ++node;
  }
  while (node < leaves) {
    node *= 2;
    if (side.reach[node] <= place) ++node;
  }
  return node - leaves;
}

template <class Visit>
void RangeIndex::VisitOverlapping(const Interval& wanted, const Visit& visit) {
  Side& side = Enter();
  const uint32_t leaves = side.leaves;
  const auto all = std::span(side.entries).first(side.count);
  const auto behind = std::lower_bound(
      all.begin(), all.end(), wanted.end,
      [](const Entry& entry, Place place) { return entry.interval.begin < place; });
  const auto end = static_cast<uint32_t>(behind - all.begin());
  for (uint32_t i = NextReaching(side, leaves, 0, wanted.begin); i < end;
       i = NextReaching(side, leaves, i + 1, wanted.begin)) {
    if (!visit(side.entries[i].slot)) break;
  }
  Leave(side);
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_RANGE_INDEX_H_
