// The layout of the islands. In the model they are independent. In the real library they are
// neighbours: they share tables of every level, one memslot spans all of them, and a bracket may
// cover several.
//
//   host memory   | 4 islands of 2 MiB each | 12 islands of 8 pages each |
//   view 0        the same order; four of the small islands share one table of pages
//   view 1        far apart: two neighbours in one table, which dies whenever both are empty
//   view 2        one memslot over all islands
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_TESTS_ORACLE_LAYOUT_H_
#define UNDERFOOT_TESTS_ORACLE_LAYOUT_H_

#include <cstdint>

#include "mmu/base/types.h"
#include "mmu/stage2/pte.h"
#include "tests/oracle/state.h"

namespace underfoot::oracle {

inline constexpr unsigned kIslands = 16;
inline constexpr unsigned kBlockIslands = 4;
inline constexpr uint64_t kBlockPages = PagesAt(1);
inline constexpr uint64_t kTotalPages =
    kBlockIslands * kBlockPages + (kIslands - kBlockIslands) * kCells;
inline constexpr uint32_t kSharedSlotId = 1000;

constexpr bool MayHaveBlocks(unsigned island) { return island < kBlockIslands; }

// The offset in host memory, from the first page of the first island.
constexpr uint64_t FirstPageOf(unsigned island) {
  return MayHaveBlocks(island)
             ? island * kBlockPages
             : kBlockIslands * kBlockPages + uint64_t{island - kBlockIslands} * kCells;
}

// The pages of a cell, counted from the first page of its island. On an island with blocks, cells
// of one page and cells of the run of pages behind it alternate.
constexpr uint64_t PageOfCell(unsigned island, unsigned cell) {
  constexpr uint64_t kPair = 2 * kBlockPages / kCells;
  return MayHaveBlocks(island) ? cell / 2 * kPair + cell % 2 : cell;
}
constexpr uint64_t PagesOfCell(unsigned island, unsigned cell) {
  return PageOfCell(island, cell + 1) - PageOfCell(island, cell);
}
constexpr bool IsPage(unsigned island, unsigned cell) { return PagesOfCell(island, cell) == 1; }

constexpr Gfn FirstGfnOf(unsigned island, unsigned view) {
  constexpr Gfn kDense{1u << 16};
  constexpr Gfn kShared{1u << 24};
  constexpr Gfn kSparse{uint64_t{1} << 30};
  switch (view) {
    case 0:
      return kDense + (MayHaveBlocks(island) ? FirstPageOf(island)
                                             : kBlockIslands * kBlockPages +
                                                   (island - kBlockIslands) * kBlockPages / 4);
    case 1:
      return MayHaveBlocks(island)
                 ? kSparse + island * PagesAt(2)
                 : kSparse + island / 2 * PagesAt(3) + island % 2 * uint64_t{kCells};
    default:
      return kShared + FirstPageOf(island);
  }
}

// A memslot may be moved to the same gfns plus this offset.
constexpr uint64_t kPagesToOtherPlace = uint64_t{1} << 34;

constexpr uint32_t SlotIdOf(unsigned island, unsigned view) {
  return view == kSharedView ? kSharedSlotId : 2 * island + view;
}

// A frame number is made of the page and of the number of times that it has moved, as far as both
// fit.
constexpr Pfn PfnOf(uint64_t page, uint32_t frame) {
  return {uint64_t{frame & 0xffffff} << 16 | page};
}

static_assert(PageOfCell(0, kCells) == kBlockPages && PageOfCell(kBlockIslands, kCells) == kCells);
static_assert(FirstPageOf(kIslands) == kTotalPages && kTotalPages < 1u << 16);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_LAYOUT_H_
