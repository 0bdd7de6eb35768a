// An hva range packed into one 64-bit word, so that a concurrent reader of the word never sees half
// of a range.
//
//   63          29 28           0          63        20 19       0
//   | hva page    | pages        |          | range key | nonce   |
//      RangeWord (ranges in flight)           ReaderKey (reader slots, pfn caches)
//
// A range that does not fit is rounded up and never down. An overlap may therefore be reported
// although there is none, but an overlap is never missed (I10).
//
// Units: pages of 4 KiB in the words, bytes in HvaRange.
// Thread safety: pure functions.

#ifndef UNDERFOOT_MMU_BASE_RANGE_WORD_H_
#define UNDERFOOT_MMU_BASE_RANGE_WORD_H_

#include <algorithm>
#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot {

// `PageBits` is the width of the page number and `CountBits` the width of the number of pages. The
// word of a non-empty range is never 0. The highest count means "to the end of the address space".
template <unsigned PageBits, unsigned CountBits>
class PackedRange {
 public:
  static constexpr uint64_t kUnbounded = (uint64_t{1} << CountBits) - 1;
  static constexpr uint64_t kMaxPage = (uint64_t{1} << PageBits) - 1;

  static constexpr uint64_t Pack(HvaRange bytes) {
    const HvaRange range = RoundOutToPages(bytes);
    const uint64_t page = range.begin.value >> kPageShift;
    if (page > kMaxPage) return kUnbounded;  // beyond 47 bits: stands for the whole address space
    const uint64_t pages = std::clamp<uint64_t>(range.size() >> kPageShift, 1, kUnbounded);
    return page << CountBits | pages;
  }

  static constexpr bool Overlap(uint64_t a, uint64_t b) {
    return BeginPage(a) < EndPage(b) && BeginPage(b) < EndPage(a);
  }

  static constexpr uint64_t BeginPage(uint64_t word) { return word >> CountBits; }
  static constexpr uint64_t EndPage(uint64_t word) {
    const uint64_t pages = word & kUnbounded;
    return pages == kUnbounded ? UINT64_MAX : BeginPage(word) + pages;
  }
};

using RangeWord = PackedRange<35, 29>;

// A packed range with room for a nonce below it, as reader slots need it.
template <class PackedRangeT, unsigned NonceBits>
class PackedKey {
 public:
  using Packed = PackedRangeT;
  static constexpr unsigned kNonceBits = NonceBits;
  static constexpr uint64_t kNonceMask = (uint64_t{1} << kNonceBits) - 1;
  static constexpr uint64_t kMaxPages = Packed::kUnbounded - 1;

  static constexpr uint64_t Pack(HvaRange range) { return Packed::Pack(range) << kNonceBits; }
  static constexpr bool Overlaps(uint64_t word, HvaRange range) {
    const uint64_t packed = word >> kNonceBits;
    const HvaRange pages = RoundOutToPages(range);
    return packed != 0 && Packed::BeginPage(packed) < pages.end.value >> kPageShift &&
           pages.begin.value >> kPageShift < Packed::EndPage(packed);
  }
};

using ReaderKey = PackedKey<PackedRange<35, 9>, 20>;

static_assert(RangeWord::Pack({{0}, {kPageSize}}) == 1);
static_assert(RangeWord::EndPage(RangeWord::Pack({{0}, {~kPageMask}})) == UINT64_MAX);

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_RANGE_WORD_H_
