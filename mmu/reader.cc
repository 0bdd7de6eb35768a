#include "mmu/reader.h"

#include <sched.h>

#include "absl/time/clock.h"
#include "mmu/mutant.h"
#include "mmu/sync_point.h"

namespace underfoot {

using internal::ReaderLine;

struct ReaderRegistry::Chunk {
  std::array<ReaderLine, kLinesPerChunk> lines;
  std::atomic<Chunk*> next{nullptr};
};

Reader::Reader(ReaderRegistry& registry) : registry_(registry), line_(registry.Acquire()) {}

Reader::~Reader() {
  UNDERFOOT_CHECK(!InSection(), "a reader ended inside a read section", tag(), 0);
  registry_.Release(line_);
}

// The scan of one Begin. Readers with a bias are put off until there is a batch for a membarrier.
struct ReaderRegistry::Scan {
  explicit Scan(HvaRange scanned) : range(scanned) {}

  const HvaRange range;
  bool waited = false;
  bool all_outside = true;
  struct Revoking {
    ReaderLine* line;
    uint64_t word;
  };
  std::array<Revoking, kLinesPerChunk> revoking;  // the first `count`
  unsigned count = 0;
};

void Reader::EndWindow() {
  if (registry_.membarriers_work_) line_->bias.EndWindow();
}

ReaderRegistry::ReaderRegistry(bool membarriers)
    : membarriers_work_(membarriers), first_(std::make_unique<Chunk>()) {
  OwnerTag tag = 0;
  for (ReaderLine& line : first_->lines) line.tag = ++tag;
}

ReaderRegistry::~ReaderRegistry() {
  ForEachLine([](const ReaderLine& line) {
    UNDERFOOT_CHECK(!line.owned.load(kAcquire), "a registry ended before its reader", line.tag, 0);
    return true;
  });
  Chunk* chunk = first_->next.load(kAcquire);
  while (chunk != nullptr) {
    std::unique_ptr<Chunk> owned(chunk);
    chunk = chunk->next.load(kAcquire);
  }
}

ReaderLine* ReaderRegistry::Acquire() {
  OwnerTag base = 0;
  for (Chunk* chunk = first_.get();; base = static_cast<OwnerTag>(base + kLinesPerChunk)) {
    for (ReaderLine& line : chunk->lines) {
      bool owned = false;
      // Pairs with: Release. Without it: the nonce does not go on where the last owner left it.
      if (!line.owned.compare_exchange_strong(owned, true, kAcqRel)) continue;
      // Before the new owner's first slot: a scan that still reads the old limit is older than the
      // slot, so the reader finds the translation cleared.
      unsigned limit = limit_.load(kStoreLoad);
      while (limit < line.tag && !limit_.compare_exchange_weak(limit, line.tag, kStoreLoad)) {
      }
      return &line;
    }
    Chunk* next = chunk->next.load(kStoreLoad);
    if (next == nullptr) {
      UNDERFOOT_CHECK(base + 2 * kLinesPerChunk <= kMaxOwnerTag, "too many readers", base, 0);
      auto fresh = std::make_unique<Chunk>();
      OwnerTag tag = static_cast<OwnerTag>(base + kLinesPerChunk);
      for (ReaderLine& line : fresh->lines) line.tag = ++tag;
      // Ordered before the new owner's first slot, so that whoever must see the slot sees the
      // chunk.
      if (chunk->next.compare_exchange_strong(next, fresh.get(), kStoreLoad)) {
        next = fresh.release();
      }
    }
    chunk = next;
  }
}

void ReaderRegistry::Release(ReaderLine* line) {
  line->bias.GiveUp();
  line->owned.store(false, kRelease);
}

template <class Visitor>
void ReaderRegistry::ForEachLine(const Visitor& visit) const {
  const unsigned limit = limit_.load(kStoreLoad);
  for (Chunk* chunk = first_.get(); chunk != nullptr; chunk = chunk->next.load(kStoreLoad)) {
    for (ReaderLine& line : chunk->lines) {
      if (line.tag > limit || !visit(line)) return;
    }
  }
}

void ReaderRegistry::WaitForReaders(HvaRange range) {
  if (UNDERFOOT_MUTANT("begin-skips-readers")) return;
  UNDERFOOT_SYNC_POINT("readers-scan");
  const uint64_t unwaited = unwaited_.load(kStoreLoad);
  Scan scan(range);
  ForEachLine([&](ReaderLine& line) {
    const uint64_t word = line.bias.Revoke();
    if (word == 0) {
      WaitForLine(line, scan);
      return true;
    }
    scan.revoking[scan.count++] = {&line, word};
    if (scan.count == scan.revoking.size()) WaitForBiased(scan);
    return true;
  });
  WaitForBiased(scan);
  if (scan.waited) waits_.Add();
  // Each reader was seen outside since: none has a translation from before that Begin.
  if (scan.all_outside) {
    uint64_t through = waited_through_.load(kRelaxed);
    while (through < unwaited &&
           !waited_through_.compare_exchange_weak(through, unwaited, kAcqRel, kRelaxed)) {
    }
  }
}

void ReaderRegistry::WaitForBiased(Scan& scan) {
  if (scan.count == 0) return;
  UNDERFOOT_SYNC_POINT("bias-leaving");
  if (!UNDERFOOT_MUTANT("bias-leaves-without-membarrier")) {
    Membarrier();
    membarriers_.Add();
  }
  const auto end = scan.revoking.begin() + std::exchange(scan.count, 0);
  std::for_each(scan.revoking.begin(), end,
                [](const Scan::Revoking& one) { one.line->bias.Revoked(one.word); });
  std::for_each(scan.revoking.begin(), end,
                [&](const Scan::Revoking& one) { WaitForLine(*one.line, scan); });
}

void ReaderRegistry::WaitForLine(const ReaderLine& line, Scan& scan) const {
  for (const std::atomic<uint64_t>& slot : line.slots) {
    const uint64_t word = slot.load(kStoreLoad);
    scan.all_outside = scan.all_outside && word == 0;
    const bool overlap =
        ReaderKey::Overlaps(word, scan.range) || UNDERFOOT_MUTANT("begin-waits-for-all-readers");
    if (word == 0 || !overlap) continue;
    scan.waited = true;
    UNDERFOOT_SYNC_POINT("reader-wait");
    WaitForChange(line, slot, word);
  }
}

// Until the word changes, not until it is 0: see the nonce. A reader may have been preempted inside
// its section, so after a short spin the CPU is offered to it.
void ReaderRegistry::WaitForChange(const ReaderLine& line, const std::atomic<uint64_t>& slot,
                                   uint64_t word) const {
  constexpr unsigned kSpins = 200;
  absl::Time deadline = absl::InfiniteFuture();
  for (unsigned spins = 0; slot.load(kAcquire) == word; ++spins) {
    if (spins < kSpins) {
      CpuRelax();
      continue;
    }
    if (spins == kSpins) deadline = absl::Now() + patience_;
    sched_yield();
    UNDERFOOT_CHECK(deadline == absl::InfiniteFuture() || absl::Now() < deadline,
                    "a read section is never left: the reader's tag, its slot", line.tag, word);
  }
}

bool ReaderRegistry::AnySectionOverlapsUnsafe(HvaRange range) const {
  bool found = false;
  ForEachLine([&](const ReaderLine& line) {
    for (const std::atomic<uint64_t>& slot : line.slots) {
      const uint64_t word = slot.load(kStoreLoad);
      found = found || (word != 0 && ReaderKey::Overlaps(word, range));
    }
    return !found;
  });
  return found;
}

uint64_t ReaderRegistry::Sum(OwnedCounter ReaderLine::*counter) const {
  uint64_t sum = 0;
  ForEachLine([&](const ReaderLine& line) {
    sum += (line.*counter).Get();
    return true;
  });
  return sum;
}

}  // namespace underfoot
