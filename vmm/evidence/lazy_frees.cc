#include "vmm/evidence/lazy_frees.h"

#include <sys/mman.h>

#include <algorithm>

#include "mmu/base/ordering.h"

namespace underfoot {

LazyFrees::LazyFrees(HvaRange ram)
    : ram_(ram), words_(((ram.size() >> kPageShift) + kBits - 1) / kBits) {}

template <class Words, class Visit>
void LazyFrees::ForEach(Words& words, HvaRange ram, HvaRange range, const Visit& visit) {
  const HvaRange pages = RoundOutToPages(range).Intersect(ram);
  if (pages.empty()) return;
  const uint64_t end = (pages.end - ram.begin) >> kPageShift;
  for (uint64_t i = (pages.begin - ram.begin) >> kPageShift; i < end;) {
    const uint64_t bit = i % kBits;
    const uint64_t count = std::min(end - i, kBits - bit);
    visit(words[i / kBits], (~uint64_t{0} >> (kBits - count)) << bit);
    i += count;
  }
}

// A translation of the range can be made only after the bracket's End. That order makes this store
// visible to every thread that later asks about such a translation.
void LazyFrees::Add(HvaRange range) {
  ForEach(words_, ram_, range, [](auto& word, uint64_t bits) { word.fetch_or(bits, kAcqRel); });
}

bool LazyFrees::Take(HvaRange range) {
  bool some = false;
  ForEach(words_, ram_, range, [&](auto& word, uint64_t bits) {
    if ((word.load(kAcquire) & bits) == 0) return;
    word.fetch_and(~bits, kAcqRel);
    some = true;
  });
  return some;
}

// Decides by which pages are present now: a call may have failed half-way, and a move that stopped
// early does not report how far it came.
void LazyFrees::Return(HvaRange range) {
  const HvaRange pages = RoundOutToPages(range).Intersect(ram_);
  if (pages.empty()) return;
  std::vector<unsigned char> there(pages.size() >> kPageShift);
  if (mincore(PointerOf(pages.begin), pages.size(), there.data()) != 0) {
    there.assign(there.size(), 1);
  }
  for (uint64_t i = 0; i < there.size(); ++i) {
    if ((there[i] & 1) != 0) Add(PageRangeOf(pages.begin + i * kPageSize));
  }
}

bool LazyFrees::MayGo(HvaRange range) const {
  bool some = false;
  ForEach(words_, ram_, range,
          [&](const auto& word, uint64_t bits) { some |= (word.load(kAcquire) & bits) != 0; });
  return some;
}

}  // namespace underfoot
