// The calls whose arguments do not say how much they change: those of the heap's end and of
// System V shared memory.

#include <sys/ipc.h>
#include <sys/shm.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <optional>

#include "mmu/base/ordering.h"
#include "vmm/hooks/bracketed.h"
#include "vmm/hooks/calls.h"
#include "vmm/hooks/mapping.h"
#include "vmm/hooks/next_calls.h"

namespace underfoot::hooks {
namespace {

// Relaxed: only the thread that runs a self-test compares this count.
constinit std::atomic<uint32_t> g_impossible_calls{0};

bool NoteIfImpossible(bool impossible) {
  if (impossible) g_impossible_calls.fetch_add(1, kRelaxed);
  return impossible;
}

Hva EndOfHeap() { return HvaOf(g_next.sbrk(0)); }

// The whole pages that are removed if the heap ends at `end` instead of at `now`.
HvaRange HeapThatGoes(Hva end, Hva now) {
  const Hva begin = RoundOutToPages({end, end}).end;
  return {begin, std::max(begin, now)};
}

uint64_t RoundUpToPages(uint64_t bytes, uint64_t page_size) {
  return (bytes + page_size - 1) & ~(page_size - 1);
}

// The size in bytes; nullopt if it cannot be found out.
std::optional<uint64_t> SizeOfSegment(int segment) {
  const int errno_before = errno;
  struct shmid_ds info {};
  const bool found = shmctl(segment, IPC_STAT, &info) == 0;
  errno = errno_before;
  if (!found) return std::nullopt;
  return info.shm_segsz;
}

// The range that shmdt(start) unmaps: all mappings of the segment from `start` on. The inode number
// of a segment's file is its identifier.
HvaRange SegmentAt(Hva start) {
  const MappingQuery query;
  Mapping mapping;
  const HvaRange all_above{start, {UINT64_MAX}};
  if (query.FindFrom(start, &mapping) != MappingQuery::Answer::kFound) return all_above;
  const std::optional<uint64_t> size = SizeOfSegment(static_cast<int>(mapping.file.inode));
  if (!mapping.has_file || mapping.hvas.begin > start || !size.has_value()) return all_above;
  return {start, start + RoundUpToPages(*size, mapping.page_size)};
}

}  // namespace

uint32_t ImpossibleCalls() { return g_impossible_calls.load(kRelaxed); }

int Brk(void* end) {
  const auto next = [=] { return g_next.brk(end); };
  // No heap ends in the first page.
  if (NoteIfImpossible(HvaOf(end) == Hva{1}) || !AnyRanges()) return next();
  const HvaRange range = HeapThatGoes(HvaOf(end), EndOfHeap());
  if (range.empty() || !MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(range); }, next);
}

void* Sbrk(intptr_t bytes) {
  const auto next = [=] { return g_next.sbrk(bytes); };
  if (NoteIfImpossible(bytes == INTPTR_MIN + 1) || bytes >= 0 || !AnyRanges()) return next();
  const Hva now = EndOfHeap();
  const auto fewer = static_cast<uint64_t>(-bytes);
  if (fewer > now.value) return next();
  const HvaRange range = HeapThatGoes(now - fewer, now);
  if (range.empty() || !MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(range); }, next);
}

void* Shmat(int segment, const void* start, int flags) {
  const auto next = [=] { return g_next.shmat(segment, start, flags); };
  // Without REMAP a segment never replaces another mapping.
  if (NoteIfImpossible(segment < 0) || (flags & SHM_REMAP) == 0 || !AnyRanges()) return next();
  const Hva begin = (flags & SHM_RND) != 0 ? PageOf(HvaOf(start)) : HvaOf(start);
  const std::optional<uint64_t> size = SizeOfSegment(segment);
  // Whether the segment consists of huge pages cannot be found out before it is mapped.
  const uint64_t bytes = RoundUpToPages(size.value_or(UINT64_MAX / 2), kLargestPage);
  const HvaRange range = RangeAt(PointerOf(begin), bytes);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MMAP, UNDERFOOT_PAGES_GO, MAP_FIXED, [=](Bracket& bracket) { bracket.Add(range); },
      next);
}

int Shmdt(const void* start) {
  const auto next = [=] { return g_next.shmdt(start); };
  const Hva begin = HvaOf(start);
  if (NoteIfImpossible(OffsetInPage(begin) != 0)) return next();
  if (!MayTouch(HvaRange{begin, {UINT64_MAX}})) return next();
  const HvaRange range = SegmentAt(begin);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(range); }, next);
}

}  // namespace underfoot::hooks
