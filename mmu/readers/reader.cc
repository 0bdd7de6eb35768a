#include "mmu/readers/reader.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "mmu/base/sync_point.h"

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

// One scan over the readers. Biased readers are collected first, so that one membarrier serves a
// whole batch of them.
struct ReaderRegistry::Scan {
  explicit Scan(HvaRange scanned) : range(scanned) {}

  const HvaRange range;
  bool waited = false;
  bool all_outside = true;
  struct Revoking {
    ReaderLine* line;
    uint64_t word;
  };
  std::array<Revoking, kLinesPerChunk> revoking;  // the first `count` are in use
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
      // Pairs with: Release. Without it: the new owner does not continue from the nonce at which
      // the last owner stopped.
      if (!line.owned.compare_exchange_strong(owned, true, kAcqRel)) continue;
      // The limit is raised before the new owner stores its first slot. If a scan still reads the
      // old limit, it precedes that slot in the total order, so the new reader finds the
      // translation emptied.
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
      // Ordered before the new owner's first slot, so that a scan that must see the slot also sees
      // the chunk.
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
  // This scan has found every slot empty, after `unwaited` was read. So no reader still uses a
  // translation that one of those brackets dropped.
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
  Membarrier();
  membarriers_.Add();
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
    const bool overlap = ReaderKey::Overlaps(word, scan.range);
    if (word == 0 || !overlap) continue;
    scan.waited = true;
    UNDERFOOT_SYNC_POINT("reader-wait");
    WaitForChange(line, slot, word);
  }
}

// Waits until the word changes, and not until it is 0: see the nonce in reader.h. The reader may
// have been preempted inside its section, so after a short spin the waiter yields the CPU to it. A
// reader that is still inside after that may be blocked in the kernel, for example by mmap_lock,
// behind a thread that itself waits for CPU time. A waiter of high priority that only yields hardly
// gives any time away, so it then sleeps between two looks.
//
// The patience is counted in looks of this thread. If a long time passes between two looks, either
// the process was stopped or this thread got no CPU, and the reader may have got none either. So of
// each such time at most kMostOfALook counts.
void ReaderRegistry::WaitForChange(const ReaderLine& line, const std::atomic<uint64_t>& slot,
                                   uint64_t word) const {
  constexpr unsigned kSpins = 200;
  constexpr unsigned kYields = 100;
  constexpr std::chrono::microseconds kSleep{100};
  constexpr std::chrono::nanoseconds kMostOfALook = std::chrono::milliseconds(10);
  const std::chrono::nanoseconds patience = absl::ToChronoNanoseconds(patience_);
  std::chrono::nanoseconds waited{0};
  std::chrono::steady_clock::time_point last_look;
  for (unsigned spins = 0; slot.load(kAcquire) == word; ++spins) {
    if (spins < kSpins) {
      CpuRelax();
      continue;
    }
    const auto now = std::chrono::steady_clock::now();
    if (spins != kSpins) {
      waited += std::min<std::chrono::nanoseconds>(now - last_look, kMostOfALook);
    }
    last_look = now;
    if (spins < kSpins + kYields) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
    UNDERFOOT_CHECK(patience_ == absl::InfiniteDuration() || waited < patience,
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
