// An hva range in one 64-bit word, so that a concurrent reader of the word never sees half of it.
//
//   63          29 28           0          63        20 19       0
//   | hva page    | pages        |          | range key | nonce   |
//      RangeWord (ranges in flight)           ReaderKey (reader slots, pfn caches)
//
// A range that does not fit is rounded up, never down: an overlap may be reported too often, and is
// never missed (I10).
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_MMU_RANGE_WORD_H_
#define UNDERFOOT_MMU_RANGE_WORD_H_

#include <algorithm>
#include <cstdint>

#include "mmu/types.h"

namespace underfoot {

// `PageBits` for the page number, `CountBits` for the number of pages; the word is never 0 for a
// non-empty range. The highest count means "to the end of the address space".
template <unsigned PageBits, unsigned CountBits>
class PackedRange {
 public:
  static constexpr uint64_t kUnbounded = (uint64_t{1} << CountBits) - 1;
  static constexpr uint64_t kMaxPage = (uint64_t{1} << PageBits) - 1;

  static constexpr uint64_t Pack(HvaRange bytes) {
    const HvaRange range = RoundOutToPages(bytes);
    const uint64_t page = range.begin.value >> kPageShift;
    if (page > kMaxPage) return kUnbounded;  // beyond 47 bits: everything
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

// Reader slots leave room for a nonce below the range.
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

#endif  // UNDERFOOT_MMU_RANGE_WORD_H_
