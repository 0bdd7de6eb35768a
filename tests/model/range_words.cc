// The packing of ranges into words, over every pair of ranges of a small address space, with the
// code's own templates at small widths; and at the real widths over every pair of ends near a
// boundary. An overlap is never missed (I10), and where both ranges fit none is invented (I9).
//
// Exit 0: holds; 1: caught, with the pair. Prints how many pairs it compared.

#include <cinttypes>
#include <cstdio>
#include <vector>

#include "mmu/base/range_word.h"

namespace underfoot {
namespace {

// The packing as it is, or with one line of it changed.
template <unsigned PageBits, unsigned CountBits>
struct Packing : PackedRange<PageBits, CountBits> {
  using Real = PackedRange<PageBits, CountBits>;

  static constexpr uint64_t Pack(HvaRange bytes) {
#if defined(BREAK_ROUND_IN)
    const uint64_t page = bytes.begin.value >> kPageShift;
    return Real::Pack({bytes.begin, {(page << kPageShift) + (bytes.size() & ~kPageMask) }});
#elif defined(BREAK_COUNT_IS_CUT)
    const HvaRange range = RoundOutToPages(bytes);
    const uint64_t page = range.begin.value >> kPageShift;
    if (page > Real::kMaxPage) return Real::kUnbounded;
    return page << CountBits | ((range.size() >> kPageShift) & Real::kUnbounded);
#elif defined(BREAK_PAGE_IS_CUT)
    const HvaRange range = RoundOutToPages(bytes);
    const uint64_t page = range.begin.value >> kPageShift & Real::kMaxPage;
    return Real::Pack({{page << kPageShift}, {(page << kPageShift) + range.size() }});
#else
    return Real::Pack(bytes);
#endif
  }

  static constexpr bool Overlap(uint64_t a, uint64_t b) {
    return Real::BeginPage(a) < EndPage(b) && Real::BeginPage(b) < EndPage(a);
  }

  static constexpr uint64_t EndPage(uint64_t word) {
#if defined(BREAK_UNBOUNDED_IS_A_NUMBER)
    return Real::BeginPage(word) + (word & Real::kUnbounded);
#else
    return Real::EndPage(word);
#endif
  }

  // Whether the word stands for exactly this range.
  static constexpr bool Fits(HvaRange bytes) {
    const HvaRange range = RoundOutToPages(bytes);
    return range.begin.value >> kPageShift <= Real::kMaxPage &&
           range.size() >> kPageShift < Real::kUnbounded;
  }
};

std::vector<HvaRange> RangesBetween(const std::vector<uint64_t>& ends) {
  std::vector<HvaRange> ranges;
  for (const uint64_t begin : ends) {
    for (const uint64_t end : ends) {
      if (begin < end) ranges.push_back({{begin}, {end}});
    }
  }
  return ranges;
}

// Page boundaries from `first` on, and the bytes beside them.
void AddEnds(uint64_t first_page, uint64_t pages, std::vector<uint64_t>& ends) {
  for (uint64_t page = first_page; page < first_page + pages; ++page) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, kPageMask}) {
      ends.push_back((page << kPageShift) + offset);
    }
  }
}

uint64_t pairs = 0;

void Compare(const char* what, HvaRange a, HvaRange b, bool fit, bool reported) {
  ++pairs;
  const bool overlap = RoundOutToPages(a).Overlaps(RoundOutToPages(b));
  if (overlap == reported || (reported && !fit)) return;
  std::printf("%s SAYS %d: [0x%" PRIx64 ", 0x%" PRIx64 ") and [0x%" PRIx64 ", 0x%" PRIx64 ")\n",
              what, reported, a.begin.value, a.end.value, b.begin.value, b.end.value);
  std::exit(1);
}

template <class Packing>
void CompareWords(const char* what, const std::vector<HvaRange>& ranges) {
  for (const HvaRange a : ranges) {
    for (const HvaRange b : ranges) {
      Compare(what, a, b, Packing::Fits(a) && Packing::Fits(b),
              Packing::Pack(a) != 0 && Packing::Overlap(Packing::Pack(a), Packing::Pack(b)));
    }
    // A free word overlaps nothing.
    Compare(what, a, {}, true, Packing::Overlap(Packing::Pack(a), 0));
  }
}

template <class Key>
void CompareKeys(const char* what, const std::vector<HvaRange>& ranges, uint64_t nonces) {
  for (const HvaRange a : ranges) {
    for (uint64_t i = 0; i < nonces; ++i) {
      // The first nonces and the last ones.
      const uint64_t nonce = (i < nonces / 2 ? i : Key::kNonceMask - (i - nonces / 2));
#if defined(BREAK_NONCE_IS_NOT_MASKED)
      const uint64_t word = Key::Pack(a) | (nonce + 1);
#else
      const uint64_t word = Key::Pack(a) | (nonce & Key::kNonceMask);
#endif
      for (const HvaRange b : ranges) {
        Compare(what, a, b, Key::Packed::Fits(a), word != 0 && Key::Overlaps(word, b));
      }
    }
  }
}

int Run() {
  std::vector<uint64_t> ends;
  AddEnds(0, 20, ends);  // beyond the last page that 4 bits hold
  CompareWords<Packing<4, 3>>("WORD", RangesBetween(ends));
  CompareWords<Packing<3, 2>>("WORD", RangesBetween(ends));
  CompareKeys<PackedKey<Packing<4, 3>, 1>>("KEY", RangesBetween(ends), 2);
  CompareKeys<PackedKey<Packing<3, 2>, 2>>("KEY", RangesBetween(ends), 4);

  ends.clear();
  AddEnds(0, 2, ends);
  for (const unsigned bits : {9u, 29u, 35u}) AddEnds((uint64_t{1} << bits) - 2, 4, ends);
  AddEnds((UINT64_MAX >> kPageShift) - 1, 2, ends);  // the kernel's "everything" ends here
  CompareWords<Packing<35, 29>>("WORD", RangesBetween(ends));
  CompareKeys<PackedKey<Packing<35, 9>, 20>>("KEY", RangesBetween(ends), 4);
  std::printf("%" PRIu64 " pairs\n", pairs);
  return 0;
}

}  // namespace
}  // namespace underfoot

int main() { return underfoot::Run(); }
