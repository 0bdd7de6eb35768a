#include "vmm/hooks/calls.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "mmu/base/types.h"
#include "vmm/hooks/advice.h"
#include "vmm/hooks/bracketed.h"
#include "vmm/hooks/mapping.h"
#include "vmm/hooks/next_calls.h"
#include "vmm/hooks/own_pidfd.h"

namespace underfoot::hooks {
namespace {

int RawIoctl(int fd, unsigned long request, void* argument) {
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

// Finds the file of the descriptor. False: no attached range has a file, or the descriptor has
// none.
bool FileOf(int fd, FileId* file, uint64_t* size) {
  if (!AnyFiles()) return false;
  const int errno_before = errno;
  struct stat info {};
  const bool found = fstat(fd, &info) == 0;
  errno = errno_before;
  *file = {info.st_dev, info.st_ino};
  *size = static_cast<uint64_t>(info.st_size);
  return found;
}

// The part of the file that fallocate with `mode` removes; empty if it removes nothing.
FileRange PartThatGoes(FileId file, int mode, off_t offset, off_t length) {
  const auto begin = static_cast<uint64_t>(offset);
  if (offset < 0 || length <= 0) return {file, 0, 0};
  // Everything behind `offset` moves.
  if ((mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0) {
    return {file, begin, UINT64_MAX};
  }
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | newer::kFallocWriteZeroes)) != 0) {
    return {file, begin, begin + static_cast<uint64_t>(length)};
  }
  return {file, 0, 0};
}

// Rounds out to whole pages: a page that is covered only in part is either written or removed.
FileRange RoundOut(FileRange part) {
  const HvaRange whole = RoundOutToPages({{part.begin}, {part.end}});
  return {part.file, whole.begin.value, whole.end.value};
}

AdviceEffect EffectOfAdvice(int advice) { return RuleOf(advice).effect; }

// An advice on a mapping that is not attached may still remove pages of an attached file.
bool AdviceMayTouch(HvaRange range, int advice) {
  if (range.empty()) return false;
  switch (EffectOfAdvice(advice)) {
    case AdviceEffect::kNothing:
      return false;
    case AdviceEffect::kDrops:
      return MayTouch(range);
    case AdviceEffect::kDropsAll:
      return AnyFiles() || MayTouch(range);
  }
  return true;
}

void AddAdvised(Bracket& bracket, HvaRange range, int advice) {
  if (EffectOfAdvice(advice) == AdviceEffect::kDropsAll) {
    bracket.AddWithAliases(range);
  } else {
    bracket.Add(range);
  }
}

// The kernel extends the range to the beginning, or the end, of a mapping that can grow. Only the
// kernel knows where that is.
HvaRange RangeOfProtection(const void* start, size_t length, int protection) {
  HvaRange range = RangeAt(start, length);
  if ((protection & PROT_GROWSDOWN) != 0) range.begin = {0};
  if ((protection & PROT_GROWSUP) != 0) range.end = {UINT64_MAX};
  return range;
}

uint64_t RoundUp(uint64_t bytes, uint64_t page_size) {
  return bytes > UINT64_MAX - page_size ? bytes : (bytes + page_size - 1) & ~(page_size - 1);
}

// The range that a new mapping covers: the kernel rounds up to the page size of the mapping.
HvaRange RangeOfMapping(const void* start, size_t length, int flags, int fd) {
  const HvaRange range = RangeAt(start, length);
  const HvaRange widest = RangeAt(start, RoundUp(length, kLargestPage));
  if (!MayTouch(widest)) return range;
  if ((flags & MAP_ANONYMOUS) == 0) return RangeAt(start, RoundUp(length, PageSizeOf(fd)));
  if ((flags & MAP_HUGETLB) == 0) return range;
  const auto shift = static_cast<unsigned>(flags >> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
  // Without a size in the flags the system's default size applies, which may be the largest.
  return shift == 0 ? widest : RangeAt(start, RoundUp(length, uint64_t{1} << shift));
}

// The ranges that mremap changes. Lengths are rounded up to the page size of the mapping.
struct Move {
  HvaRange from;
  HvaRange to;  // empty: the kernel chooses the place
  uint64_t new_length;
};

Move MoveOf(void* old_start, size_t old_length, size_t new_length, int flags, void* new_start,
            uint64_t page_size) {
  const uint64_t length = RoundUp(new_length, page_size);
  const bool fixed = (flags & MREMAP_FIXED) != 0;
  return {RangeAt(old_start, RoundUp(old_length, page_size)),
          fixed ? RangeAt(new_start, length) : HvaRange{}, length};
}

bool MoveMayTouch(const Move& move) { return MayTouch(move.from) || MayTouch(move.to); }

// The kernel moves huge pages only between multiples of their size.
bool MayMoveHugePages(const Move& move) {
  constexpr uint64_t kHuge = uint64_t{2} << 20;
  const uint64_t lengths = move.from.size() | move.new_length;
  return ((move.from.begin.value | move.to.begin.value) & (kHuge - 1)) == 0 &&
         (lengths & (kHuge - 1)) != 0;
}

underfoot_effect EffectOf(int protection) {
  if ((protection & PROT_WRITE) != 0) return UNDERFOOT_NOTHING_GOES;
  return (protection & PROT_READ) != 0 ? UNDERFOOT_WRITES_GO : UNDERFOOT_PAGES_GO;
}

}  // namespace

int Madvise(void* start, size_t length, int advice) {
  const auto next = [=] { return g_next.madvise(start, length, advice); };
  const HvaRange range = RangeAt(start, length);
  if (!AdviceMayTouch(range, advice)) return next();
  return Bracketed(
      UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, advice,
      [=](Bracket& bracket) { AddAdvised(bracket, range, advice); }, next);
}

ssize_t ProcessMadvise(int pidfd, const iovec* ranges, size_t count, int advice, unsigned flags) {
  const auto next = [=] { return g_next.process_madvise(pidfd, ranges, count, advice, flags); };
  if (!AnyRanges() || count > kMaxIovecs || EffectOfAdvice(advice) == AdviceEffect::kNothing ||
      !MayBeOwnPidfd(pidfd)) {
    return next();
  }
  return Bracketed(
      UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, advice,
      [=](Bracket& bracket) {
        ForEachIovec(ranges, count, [&bracket, advice](const iovec& part) {
          const HvaRange range = RangeAt(part.iov_base, part.iov_len);
          if (AdviceMayTouch(range, advice)) AddAdvised(bracket, range, advice);
        });
      },
      next);
}

int Munmap(void* start, size_t length) {
  const auto next = [=] { return g_next.munmap(start, length); };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(range); }, next);
}

void* Mremap(void* old_start, size_t old_length, size_t new_length, int flags, void* new_start) {
  const auto next = [=] {
    return g_next.mremap(old_start, old_length, new_length, flags, new_start);
  };
  constexpr int kMoves = MREMAP_FIXED | MREMAP_DONTUNMAP;
  const auto move_by = [=](uint64_t page_size) {
    return MoveOf(old_start, old_length, new_length, flags, new_start, page_size);
  };
  Move move = move_by(kPageSize);
  if (MayMoveHugePages(move) && MoveMayTouch(move_by(kLargestPage))) {
    move = move_by(PageSizeAt(move.from.begin));
  }
  HvaRange from = move.from;
  const HvaRange to = move.to;
  if (!MoveMayTouch(move)) return next();
  if ((flags & kMoves) == 0 && move.new_length <= from.size()) {
    from.begin = std::min(from.begin + move.new_length, from.end);  // only the tail is removed
  }
  if ((flags & (kMoves | MREMAP_MAYMOVE)) == 0 && move.new_length > from.size()) {
    from.end = from.begin;  // the mapping grows in place
  }
  return Bracketed(
      UNDERFOOT_MREMAP, UNDERFOOT_PAGES_GO, flags,
      [=](Bracket& bracket) {
        bracket.Add(from);
        bracket.Add(to);
      },
      next);
}

int Mprotect(void* start, size_t length, int protection) {
  const auto next = [=] { return g_next.mprotect(start, length, protection); };
  const HvaRange range = RangeOfProtection(start, length, protection);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MPROTECT, EffectOf(protection), protection,
      [=](Bracket& bracket) { bracket.Add(range); }, next);
}

int PkeyMprotect(void* start, size_t length, int protection, int key) {
  const auto next = [=] { return g_next.pkey_mprotect(start, length, protection, key); };
  const HvaRange range = RangeOfProtection(start, length, protection);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MPROTECT, EffectOf(protection), protection,
      [=](Bracket& bracket) { bracket.Add(range); }, next);
}

void* Mmap(void* start, size_t length, int protection, int flags, int fd, off_t offset) {
  const auto next = [=] { return g_next.mmap(start, length, protection, flags, fd, offset); };
  // Without FIXED, and with NOREPLACE, a new mapping never replaces another one.
  if ((flags & MAP_FIXED) == 0 || !AnyRanges()) return next();
  const HvaRange range = RangeOfMapping(start, length, flags, fd);
  if (!MayTouch(range)) return next();
  return Bracketed(
      UNDERFOOT_MMAP, UNDERFOOT_PAGES_GO, flags, [=](Bracket& bracket) { bracket.Add(range); },
      next);
}

int Fallocate(int fd, int mode, off_t offset, off_t length) {
  const auto next = [=] { return g_next.fallocate(fd, mode, offset, length); };
  FileId file;
  uint64_t size = 0;
  if (!FileOf(fd, &file, &size)) return next();
  const FileRange part = RoundOut(PartThatGoes(file, mode, offset, length));
  if (part.begin == part.end || !MayTouch(part)) return next();
  return Bracketed(
      UNDERFOOT_FALLOCATE, UNDERFOOT_PAGES_GO, mode, [=](Bracket& bracket) { bracket.Add(part); },
      next);
}

int Ftruncate(int fd, off_t length) {
  const auto next = [=] { return g_next.ftruncate(fd, length); };
  FileId file;
  uint64_t size = 0;
  if (length < 0 || !FileOf(fd, &file, &size)) return next();
  const FileRange part = RoundOut({file, static_cast<uint64_t>(length), UINT64_MAX});
  if (!MayTouch(part)) return next();
  return Bracketed(
      UNDERFOOT_FTRUNCATE, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(part); },
      next);
}

int UffdWriteProtect(int uffd, void* start, size_t length, uint64_t mode) {
  uffdio_writeprotect request{{HvaOf(start).value, length}, mode};
  const auto next = [&] { return RawIoctl(uffd, UFFDIO_WRITEPROTECT, &request); };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range) || (mode & UFFDIO_WRITEPROTECT_MODE_WP) == 0) return next();
  return Bracketed(
      UNDERFOOT_WRITEPROTECT, UNDERFOOT_WRITES_GO, static_cast<int>(mode),
      [=](Bracket& bracket) { bracket.Add(range); }, next);
}

int PagemapScan(int pagemap, newer::PagemapScan* scan) {
  const auto next = [=] { return RawIoctl(pagemap, newer::kPagemapScan, scan); };
  const HvaRange range{{scan->start}, {scan->end}};
  if (!MayTouch(range) || (scan->flags & newer::kPagemapScanProtect) == 0) return next();
  return Bracketed(
      UNDERFOOT_WRITEPROTECT, UNDERFOOT_WRITES_GO, UFFDIO_WRITEPROTECT_MODE_WP,
      [=](Bracket& bracket) { bracket.Add(range); }, next);
}

ssize_t UffdMove(int uffd, void* to, void* from, size_t length, uint64_t mode) {
  newer::UffdioMove request{HvaOf(to).value, HvaOf(from).value, length, mode, 0};
  const auto next = [&]() -> ssize_t {
    const int result = RawIoctl(uffd, newer::kUffdioMove, &request);
    // EAGAIN may come half-way. The pages that were moved before stay moved.
    return request.move > 0 ? request.move : result;
  };
  const HvaRange source = RangeAt(from, length);
  const HvaRange target = RangeAt(to, length);
  if (!MayTouch(source) && !MayTouch(target)) return next();
  return Bracketed(
      UNDERFOOT_MOVE, UNDERFOOT_PAGES_GO, uffd,
      [=](Bracket& bracket) {
        bracket.Add(source);
        bracket.Add(target);
      },
      next);
}

}  // namespace underfoot::hooks
