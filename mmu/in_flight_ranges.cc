#include "mmu/in_flight_ranges.h"

#include <new>

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/sync_point.h"

namespace underfoot {

InFlightRanges::InFlightRanges() : first_(std::make_unique<Chunk>()) {}

InFlightRanges::~InFlightRanges() {
  Chunk* chunk = first_->next.load(kAcquire);
  while (chunk != nullptr) {
    std::unique_ptr<Chunk> owned(chunk);
    chunk = chunk->next.load(kAcquire);
  }
}

// The chunk after `chunk`, which it makes if there is none. Returns nullptr if there is no memory
// for it.
InFlightRanges::Chunk* InFlightRanges::NextChunk(Chunk* chunk) noexcept {
  Chunk* next = chunk->next.load(kStoreLoad);
  if (next != nullptr) return next;
  std::unique_ptr<Chunk> fresh(new (std::nothrow) Chunk);
  if (fresh == nullptr) return nullptr;
  // Ordered before the word that the caller takes in the new chunk, for the same reason as `limit`:
  // see Add.
  if (chunk->next.compare_exchange_strong(next, fresh.get(), kStoreLoad)) {
    return fresh.release();
  }
  return next;
}

InFlightRanges::Place InFlightRanges::Add(HvaRange range) noexcept {
  const uint64_t word = RangeWord::Pack(range);
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = NextChunk(chunk)) {
    for (unsigned i = 0; i < kChunkSize; ++i) {
      if (chunk->words[i].load(kRelaxed) != 0) continue;  // a hint; the exchange decides
      // The limit is raised before the word is taken. An installer that still reads the old limit
      // read it before this step. So its claim precedes our walk of the entries, and the walk
      // steals the claim. The load is kStoreLoad too: another Begin may have raised the limit, and
      // its step must also precede our word in the total order.
      unsigned limit = chunk->limit.load(kStoreLoad);
      while (limit <= i && !chunk->limit.compare_exchange_weak(limit, i + 1, kStoreLoad)) {
      }
      uint64_t free = 0;
      // Pairs with: InFlightRanges::FindOverlap, called by installers of Stage2 and PfnCache (P1.a
      // with P1.2). Without it: the installer misses the range, the walk misses the claim, and a
      // stale leaf stays.
      if (chunk->words[i].compare_exchange_strong(free, word, kStoreLoad)) {
        return {chunk, i};
      }
    }
  }
  // Pairs with: InFlightRanges::Find, as a word does. Without it: the same.
  wordless_.fetch_add(1, kStoreLoad);
  return {};
}

void InFlightRanges::Remove(const Place& place) {
  if (place.chunk == nullptr) {
    // The count takes the place of the word, and the epoch follows it, as below.
    const uint64_t before = wordless_.fetch_sub(1, kStoreLoad);
    UNDERFOOT_CHECK(before != 0, "a range left the set of ranges in flight twice", 0, 0);
    wordless_epoch_.fetch_add(1, kAcqRel);
    wordless_epoch_.notify_all();
    return;
  }
  Chunk& chunk = *place.chunk;
  // Pairs with: InFlightRanges::FindOverlap. Without it: an installer that sees the bracket gone
  // looks up a page from before the host's change. It is an exchange and not a store because the
  // epoch, on which waiters sleep, changes after it.
  const uint64_t word = chunk.words[place.index].exchange(0, kStoreLoad);
  UNDERFOOT_CHECK(word != 0, "a range left the set of ranges in flight twice", place.index, 0);
  // The epoch changes after the word: a waiter that finds the new epoch must not find the old word.
  chunk.epochs[place.index].fetch_add(1, kAcqRel);
  chunk.epochs[place.index].notify_all();
}

// The first bracket for whose place and word `matches` holds, or else any bracket that has no word.
template <class Matches>
std::optional<InFlightRanges::Bracket> InFlightRanges::Find(const Matches& matches,
                                                            uint64_t ignored) const {
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = chunk->next.load(kStoreLoad)) {
    const unsigned limit = chunk->limit.load(kStoreLoad);
    for (unsigned i = 0; i < limit; ++i) {
      // The epoch is read before the word. If another bracket takes the place in between, the epoch
      // is too old, and the waiter returns at once and looks again. If the word were read first,
      // the waiter would sleep through the End.
      const uint32_t epoch = chunk->epochs[i].load(kAcquire);
      const uint64_t word = chunk->words[i].load(kStoreLoad);
      if (word != 0 && matches(*chunk, i, word)) return Bracket{chunk, i, epoch};
    }
  }
  const uint32_t epoch = wordless_epoch_.load(kAcquire);  // read first, as above
  if (wordless_.load(kStoreLoad) > ignored) return Bracket{nullptr, 0, epoch};
  return std::nullopt;
}

std::optional<InFlightRanges::Bracket> InFlightRanges::FindOverlap(HvaRange range) const {
  const uint64_t wanted = RangeWord::Pack(range);
  return Find(
      [&](const Chunk&, unsigned, uint64_t word) { return RangeWord::Overlap(word, wanted); });
}

// Pairs with: Add and Remove. Without it: another bracket has emptied the entries that the caller's
// walk found empty, still waits for a reader, and is not seen.
bool InFlightRanges::OverlapsAnother(const Place& mine, HvaRange range) const {
  const uint64_t wanted = RangeWord::Pack(range);
  const auto matches = [&](const Chunk& chunk, unsigned index, uint64_t word) {
    return (&chunk != mine.chunk || index != mine.index) && RangeWord::Overlap(word, wanted);
  };
  const auto other = Find(matches, mine.chunk == nullptr ? 1 : 0);
  return other.has_value();
}

bool InFlightRanges::InFlight(const Bracket& bracket) const {
  return EpochOf(bracket).load(kAcquire) == bracket.epoch;
}

void InFlightRanges::WaitForEnd(const Bracket& bracket) const {
  UNDERFOOT_SYNC_POINT("wait-for-end");
  EpochOf(bracket).wait(bracket.epoch, kAcquire);
}

uint64_t InFlightRanges::count() const {
  uint64_t n = wordless_.load(kRelaxed);
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = chunk->next.load(kAcquire)) {
    for (const auto& word : chunk->words) n += word.load(kRelaxed) != 0;  // relaxed: a statistic
  }
  return n;
}

}  // namespace underfoot
