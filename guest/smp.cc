#include "guest/smp.h"

#include "guest/barrier.h"
#include "guest/visits.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kWordsPerVcpu = kPageBytes / sizeof(uint64_t) / abi::kMaxVcpus;
constexpr uint64_t kStaleDepth = 8;

constinit Barrier barrier;

// A chunk's first note is the round in which the chunk was last written; 0: never.
uint64_t LastRound(const Chunk& chunk) { return Peek(*chunk.notes); }

uint64_t Word(const Context& context, uint64_t gfn, uint64_t vcpu, uint64_t round) {
  if (round == 0) return 0;
  return (abi::Mix(~context.boot.seed ^ gfn << 28 ^ round) + vcpu * 0x9e3779b97f4a7c15) | 1;
}

uint64_t WordGpa(uint64_t gpa, uint64_t vcpu) {
  return gpa + vcpu * kWordsPerVcpu * sizeof(uint64_t);
}

void VerifyWord(Context& context, const Chunk& chunk, uint64_t gpa, uint64_t vcpu, uint64_t round) {
  const uint64_t gfn = gpa / kPageBytes;
  const uint64_t found = Load(WordGpa(gpa, vcpu));
  const uint64_t expected = Word(context, gfn, vcpu, round);
  if (found == expected || (found == 0 && chunk.discardable)) return;
  abi::MismatchKind kind = found == 0 ? abi::MismatchKind::kLost : abi::MismatchKind::kCorrupt;
  for (uint64_t back = 1; found != 0 && back <= kStaleDepth && back < round; ++back) {
    if (found == Word(context, gfn, vcpu, round - back)) kind = abi::MismatchKind::kStale;
  }
  Mismatch(context, {.gfn = gfn,
                     .word = vcpu * kWordsPerVcpu,
                     .expected = expected,
                     .found = found,
                     .kind = kind});
}

void VerifyPage(Context& context, const Chunk& chunk, uint64_t i, uint64_t round) {
  const uint64_t gpa = chunk.gpa + i * kPageBytes;
  Visit(context, gpa);
  NoteTouch(context, gpa, false);
  for (uint64_t vcpu = 0; vcpu < context.boot.vcpus; ++vcpu) {
    VerifyWord(context, chunk, gpa, vcpu, round);
  }
  Add(context.report.pages_checked, 1);
}

}  // namespace

bool SmpRound(Context& context, uint64_t round, bool stop) {
  if (barrier.Meet(context, stop)) return true;
  const uint64_t chunks = context.pages.smp_chunks();
  if (chunks == 0) return false;
  const uint64_t choice = abi::Mix(context.boot.seed + round);  // the same for all vCPUs
  const Chunk chunk = context.pages.smp_chunk(choice % chunks);
  Poke(context.report.visiting_gpa, chunk.gpa);
  const uint64_t last = LastRound(chunk);
  const uint64_t start = round % 2 == 0 ? 0 : context.vcpu;
  for (uint64_t i = 0; i < chunk.pages; ++i) {
    const uint64_t gpa = chunk.gpa + (start + i) % chunk.pages * kPageBytes;
    Visit(context, gpa);
    NoteTouch(context, gpa, true);
    // Most pages are written without a read before, so that the vCPUs meet in a write fault.
    if (((choice >> 32) + i) % 4 == 0) VerifyWord(context, chunk, gpa, context.vcpu, last);
    Store(WordGpa(gpa, context.vcpu), Word(context, gpa / kPageBytes, context.vcpu, round));
    Add(context.report.pages_written, 1);
  }
  Visit(context, 0);
  // The run does not end here: the other vCPUs check what each vCPU wrote.
  static_cast<void>(barrier.Meet(context, false));
  for (uint64_t i = 0; i < chunk.pages; ++i) VerifyPage(context, chunk, i, round);
  // The other vCPUs read the note after the next barrier, which this vCPU reaches after this store.
  if (context.vcpu == 0) Poke(*chunk.notes, static_cast<uint32_t>(round));
  Visit(context, 0);
  Poke(context.report.visiting_gpa, uint64_t{0});
  return false;
}

void VerifySmp(Context& context) {
  const uint64_t chunks = context.pages.smp_chunks();
  const uint64_t limit = context.boot.final_pages;
  const uint64_t share = chunks / context.boot.vcpus * kChunkPages;
  const uint64_t step = limit == 0 || share <= limit ? 1 : (share + limit - 1) / limit;
  uint64_t turn = 0;
  for (uint64_t m = context.vcpu; m < chunks; m += context.boot.vcpus) {
    const Chunk chunk = context.pages.smp_chunk(m);
    for (uint64_t i = 0; i < chunk.pages; ++i) {
      if (turn++ % step != 0) {
        Add(context.report.final_skipped, 1);
        continue;
      }
      VerifyPage(context, chunk, i, LastRound(chunk));
      Add(context.report.final_checked, 1);
    }
  }
}

}  // namespace underfoot::guest
