#include "guest/stamp.h"

#include "guest/visits.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kStampWords = 8;
constexpr uint64_t kWordsPerPage = kPageBytes / sizeof(uint64_t);
constexpr uint64_t kWriteTries = 4;
// A mismatch that is at most this many generations old counts as stale.
constexpr uint64_t kStaleDepth = 4;

// The note of a page: its generation, and what this vCPU has observed since.
// The page was found discarded: it must be all zeroes until it is rewritten.
constexpr uint32_t kZeroSeen = 1u << 31;
// Every attempt to write the page was interrupted by a discard: any mixture is possible.
constexpr uint32_t kTorn = 1u << 30;
constexpr uint32_t kGeneration = kTorn - 1;

struct Page {
  uint64_t gpa;
  bool discardable;
  uint32_t* note;

  uint64_t gfn() const { return gpa / kPageBytes; }
  // The k-th stamped word, which lies at another place in every page.
  uint64_t word(uint64_t k) const {
    return k * (kWordsPerPage / kStampWords) + gfn() * 7 % (kWordsPerPage / kStampWords);
  }
  uint64_t word_gpa(uint64_t k) const { return gpa + word(k) * sizeof(uint64_t); }
};

// One stamp for each page and generation. Its words differ by a constant step and are never zero.
uint64_t Stamp(const Context& context, const Page& page, uint64_t generation) {
  return abi::Mix(context.boot.seed ^ page.gfn() << 28 ^ generation);
}
uint64_t StampWord(uint64_t stamp, uint64_t k) { return (stamp + k * 0x9e3779b97f4a7c15) | 1; }

abi::MismatchKind Classify(const Context& context, const Page& page, uint64_t k, uint64_t found) {
  if (found == 0) return abi::MismatchKind::kLost;
  const uint32_t note = *page.note;
  const uint64_t generation = note & kGeneration;
  for (uint64_t back = 0; back <= kStaleDepth && back < generation; ++back) {
    if (found != StampWord(Stamp(context, page, generation - back), k)) continue;
    return back == 0 ? abi::MismatchKind::kResurrected : abi::MismatchKind::kStale;
  }
  return abi::MismatchKind::kCorrupt;
}

void StampMismatch(Context& context, const Page& page, uint64_t k, uint64_t expected,
                   uint64_t found) {
  MismatchAt(context, page.word_gpa(k), expected, found, Classify(context, page, k, found));
}

void VerifyZeroes(Context& context, const Page& page) {
  for (uint64_t k = 0; k < kStampWords; ++k) {
    const uint64_t found = Load(page.word_gpa(k));
    if (found != 0) StampMismatch(context, page, k, 0, found);
  }
}

void VerifyPage(Context& context, const Page& page) {
  Add(context.report.pages_checked, 1);
  NoteTouch(context, page.gpa, false);
  const uint32_t note = *page.note;
  const uint64_t generation = note & kGeneration;
  if (generation == 0 || (note & kZeroSeen) != 0) return VerifyZeroes(context, page);

  const uint64_t stamp = Stamp(context, page, generation);
  bool zero = false;
  for (uint64_t k = 0; k < kStampWords; ++k) {
    const uint64_t found = Load(page.word_gpa(k));
    const uint64_t expected = StampWord(stamp, k);
    if (found == 0 && page.discardable) {
      zero = true;
    } else if (found != expected) {
      StampMismatch(context, page, k, expected, found);
    } else if (zero && (note & kTorn) == 0) {
      StampMismatch(context, page, k, 0, found);
    }
  }
  // In a torn page, each word may be either the last one written or zero.
  if (zero && (note & kTorn) == 0) {
    *page.note = note | kZeroSeen;
    Add(context.report.zero_pages, 1);
  }
}

void WritePage(Context& context, const Page& page) {
  Add(context.report.pages_written, 1);
  NoteTouch(context, page.gpa, true);
  const uint32_t generation = ((*page.note & kGeneration) + 1) & kGeneration;
  const uint64_t stamp = Stamp(context, page, generation);
  *page.note = generation;
  for (uint64_t attempt = 0; attempt < kWriteTries; ++attempt) {
    for (uint64_t k = 0; k < kStampWords; ++k) Store(page.word_gpa(k), StampWord(stamp, k));
    // The first word is still there: no discard happened between the first store and now, so the
    // page was complete.
    if (!page.discardable || Load(page.word_gpa(0)) != 0) return;
  }
  *page.note = generation | kTorn;
}

Page PageOf(const Chunk& chunk, uint64_t i) {
  return {
      .gpa = chunk.gpa + i * kPageBytes, .discardable = chunk.discardable, .note = chunk.notes + i};
}

// By vCPU 0.
constinit uint64_t lent_chunks = 0;

uint64_t ChunksAtHand(const Context& context) {
  return context.pages.stamp_chunks(context.vcpu) - (context.vcpu == 0 ? lent_chunks : 0);
}

}  // namespace

bool LendChunk(Context& context, LentChunk* lent) {
  const uint64_t chunks = context.pages.stamp_chunks(context.vcpu);
  if (2 * (lent_chunks + 1) > chunks) return false;
  const Chunk chunk = context.pages.stamp_chunk(context.vcpu, chunks - 1 - lent_chunks++);
  Poke(context.report.visiting_gpa, chunk.gpa);
  for (uint64_t i = 0; i < chunk.pages; ++i) {
    const Page page = PageOf(chunk, i);
    Visit(context, page.gpa);
    NoteTouch(context, page.gpa, true);
    for (uint64_t k = 0; k < kStampWords; ++k) Store(page.word_gpa(k), 0);
    *page.note = (*page.note & kGeneration) | kZeroSeen;
  }
  Visit(context, 0);
  Poke(context.report.visiting_gpa, uint64_t{0});
  *lent = {chunk.gpa, chunk.pages};
  return true;
}

LentChunk LastLent(const Context& context) {
  const Chunk chunk = context.pages.stamp_chunk(context.vcpu, ChunksAtHand(context));
  return {chunk.gpa, chunk.pages};
}

void TakeChunkBack(Context&) { --lent_chunks; }

void StampRound(Context& context) {
  const uint64_t chunks = ChunksAtHand(context);
  if (chunks == 0) return;
  const Chunk chunk = context.pages.stamp_chunk(context.vcpu, context.random.Below(chunks));
  Poke(context.report.visiting_gpa, chunk.gpa);
  const uint64_t start = context.random.Next();
  // Odd, so that each of 64 pages is visited once.
  const uint64_t stride = context.random.Next() | 1;
  // Two random bits for each page: of four visits
  uint64_t chance = context.random.Next();
  uint64_t more_chance = context.random.Next();
  for (uint64_t i = 0; i < kChunkPages; ++i) {
    const uint64_t index = (start + i * stride) % kChunkPages;
    const bool only_read = (chance & 1) != 0 && (more_chance & 1) != 0;   // one only reads
    const bool only_write = (chance & 1) == 0 && (more_chance & 1) == 0;  // and one only writes
    chance >>= 1;
    more_chance >>= 1;
    if (index >= chunk.pages) continue;
    const Page page = PageOf(chunk, index);
    Visit(context, page.gpa);
    if (!only_write) VerifyPage(context, page);
    if (!only_read) WritePage(context, page);
  }
  Visit(context, 0);
  Poke(context.report.visiting_gpa, uint64_t{0});
}

void VerifyOther(Context& context, const OtherPages& other) {
  for (uint64_t i = 0; i < other.pages; ++i) {
    VerifyPage(context,
               {.gpa = other.gpa + i * kPageBytes, .discardable = false, .note = other.note});
  }
}

void WriteOther(Context& context, const OtherPages& other) {
  const uint32_t before = *other.note;
  for (uint64_t i = 0; i < other.pages; ++i) {
    *other.note = before;  // of which each page makes the next one
    WritePage(context,
              {.gpa = other.gpa + i * kPageBytes, .discardable = false, .note = other.note});
  }
}

bool IsWritten(const OtherPages& other) {
  return (*other.note & kGeneration) != 0 && (*other.note & kZeroSeen) == 0;
}

void NoteGone(const OtherPages& other) { *other.note = (*other.note & kGeneration) | kZeroSeen; }

void VerifyStamps(Context& context) {
  const uint64_t chunks = context.pages.stamp_chunks(context.vcpu);
  const uint64_t limit = context.boot.final_pages;
  const uint64_t step = limit == 0 ? 1 : (chunks * kChunkPages + limit - 1) / limit;
  uint64_t turn = 0;
  for (uint64_t k = 0; k < chunks; ++k) {
    const Chunk chunk = context.pages.stamp_chunk(context.vcpu, k);
    for (uint64_t i = 0; i < chunk.pages; ++i) {
      if (turn++ % step != 0) {
        Add(context.report.final_skipped, 1);
        continue;
      }
      const Page page = PageOf(chunk, i);
      Visit(context, page.gpa);
      VerifyPage(context, page);
      Add(context.report.final_checked, 1);
    }
  }
}

}  // namespace underfoot::guest
