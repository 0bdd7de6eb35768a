#include "mmu/invalidation.h"

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "mmu/sync_point.h"

namespace underfoot {

InFlightRanges::InFlightRanges() : first_(std::make_unique<Chunk>()) {}

InFlightRanges::~InFlightRanges() {
  Chunk* chunk = first_->next.load(kAcquire);
  while (chunk != nullptr) {
    std::unique_ptr<Chunk> owned(chunk);
    chunk = chunk->next.load(kAcquire);
  }
}

InFlightRanges::Chunk* InFlightRanges::NextChunk(Chunk* chunk) {
  Chunk* next = chunk->next.load(kStoreLoad);
  if (next != nullptr) return next;
  auto fresh = std::make_unique<Chunk>();
  // Ordered before the word that the caller takes inside, like `limit`, see Add.
  if (chunk->next.compare_exchange_strong(next, fresh.get(), kStoreLoad)) {
    return fresh.release();
  }
  return next;
}

InFlightRanges::Place InFlightRanges::Add(HvaRange range) {
  const uint64_t word = RangeWord::Pack(range);
  for (Chunk* chunk = first_.get();; chunk = NextChunk(chunk)) {
    for (unsigned i = 0; i < kChunkSize; ++i) {
      if (chunk->words[i].load(kRelaxed) != 0) continue;  // a hint: the exchange decides
      // Raised before the word is taken. An installer that still reads the old limit read it before
      // this step, so its claim is older than our scan of the entries, and the scan steals it.
      // kStoreLoad for the load too: the limit may have been raised by another Begin, whose step
      // must come before our word in the one order as well.
      unsigned limit = chunk->limit.load(kStoreLoad);
      while (limit <= i && !chunk->limit.compare_exchange_weak(limit, i + 1, kStoreLoad)) {
      }
      uint64_t free = 0;
      // Pairs with: InFlightRanges::FindOverlap, of Stage2 and PfnCache installers (P1: B1 with
      // I2). Without it: the installer misses the range, the scan misses the claim, a stale leaf
      // stays.
      if (chunk->words[i].compare_exchange_strong(free, word, kStoreLoad)) {
        return {chunk, i};
      }
    }
  }
}

void InFlightRanges::Remove(const Place& place) {
  Chunk& chunk = *place.chunk;
  // Pairs with: InFlightRanges::FindOverlap. Without it: an installer that sees the bracket gone
  // looks up a page from before the host's change. An exchange, since End's caller then reads who
  // waits.
  const uint64_t word = chunk.words[place.index].exchange(0, kStoreLoad);
  UNDERFOOT_CHECK(word != 0, "a range left the set of ranges in flight twice", place.index, 0);
  if (UNDERFOOT_MUTANT("end-without-wake")) return;
  // After the word: a waiter that finds the new epoch must not find the old word.
  chunk.epochs[place.index].fetch_add(1, kAcqRel);
  chunk.epochs[place.index].notify_all();
}

// The first bracket for which `matches` holds, of its place and its word.
template <class Matches>
std::optional<InFlightRanges::Bracket> InFlightRanges::Find(const Matches& matches) const {
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = chunk->next.load(kStoreLoad)) {
    const unsigned limit = chunk->limit.load(kStoreLoad);
    for (unsigned i = 0; i < limit; ++i) {
      // The epoch before the word: if the word changes hands in between, the epoch is too old, and
      // a waiter returns at once and looks again. The other way round it would sleep through the
      // End.
      const uint32_t epoch = chunk->epochs[i].load(kAcquire);
      const uint64_t word = chunk->words[i].load(kStoreLoad);
      if (word != 0 && matches(*chunk, i, word)) return Bracket{chunk, i, epoch};
    }
  }
  return std::nullopt;
}

std::optional<InFlightRanges::Bracket> InFlightRanges::FindOverlap(HvaRange range) const {
  if (UNDERFOOT_MUTANT("install-ignores-in-flight")) return std::nullopt;
  const uint64_t wanted = RangeWord::Pack(range);
  return Find([&](const Chunk&, unsigned, uint64_t word) {
    return RangeWord::Overlap(word, wanted) || UNDERFOOT_MUTANT("any-bracket-blocks");
  });
}

// The scan pairs with Add and Remove. Without that: the other bracket has cleared what the caller's
// walk did not find, still waits for a reader, and is not seen.
bool InFlightRanges::OverlapsAnother(const Place& mine, HvaRange range) const {
  const uint64_t wanted = RangeWord::Pack(range);
  const auto other = Find([&](const Chunk& chunk, unsigned index, uint64_t word) {
    return (&chunk != mine.chunk || index != mine.index) && RangeWord::Overlap(word, wanted);
  });
  return other.has_value();
}

bool InFlightRanges::InFlight(const Bracket& bracket) const {
  return bracket.chunk->epochs[bracket.index].load(kAcquire) == bracket.epoch;
}

void InFlightRanges::WaitForEnd(const Bracket& bracket) const {
  UNDERFOOT_SYNC_POINT("wait-for-end");
  bracket.chunk->epochs[bracket.index].wait(bracket.epoch, kAcquire);
}

uint64_t InFlightRanges::count() const {
  uint64_t n = 0;
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = chunk->next.load(kAcquire)) {
    for (const auto& word : chunk->words) n += word.load(kRelaxed) != 0;  // relaxed: a statistic
  }
  return n;
}

}  // namespace underfoot
