#include "vmm/hooks/calls.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bit>
#include <cerrno>

#include "mmu/mutant.h"
#include "mmu/types.h"
#include "vmm/hooks/advice.h"
#include "vmm/hooks/bracket.h"
#include "vmm/hooks/own_pidfd.h"

namespace underfoot::hooks {
namespace {

// What the kernel takes `length` bytes at `start` for; an end that wraps becomes the last page.
HvaRange RangeAt(const void* start, size_t length) {
  const uint64_t begin = HvaOf(start).value;
  const uint64_t end = begin + length < begin ? UINT64_MAX : begin + length;
  return {{begin}, {end}};
}

// -1 on failure, as a system call's result.
bool Failed(int result) { return result == -1; }
bool Failed(ssize_t result) { return result == -1; }
bool Failed(const void* result) { return result == MAP_FAILED; }

// Out of line, with its kilobytes of stack: calls that touch nothing do not come here.
template <class Collect, class Call>
[[gnu::noinline]] auto Bracketed(underfoot_call call, underfoot_effect effect, int argument,
                                 const Collect& collect, const Call& system_call) {
  const int errno_before = errno;
  Bracket bracket;
  collect(bracket);
  if (!UNDERFOOT_MUTANT("hook-after-the-call")) bracket.Begin(call, effect, argument);
  if (UNDERFOOT_MUTANT("hook-ends-before-the-call")) bracket.End(0);
  errno = errno_before;
  const auto result = system_call();
  const int errno_after = errno;
  if (UNDERFOOT_MUTANT("hook-after-the-call")) bracket.Begin(call, effect, argument);
  if (!UNDERFOOT_MUTANT("hook-ends-before-the-call")) {
    bracket.End(Failed(result) ? errno_after : 0);
  }
  if (!UNDERFOOT_MUTANT("hook-spoils-errno")) errno = errno_after;
  return result;
}

void* Pointer(long result) { return std::bit_cast<void*>(result); }

int RawIoctl(int fd, unsigned long request, void* argument) {
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

// What the descriptor's file is; false: nobody attached a range of any file, or this is none.
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

// What of a file goes by fallocate with `mode`; empty: nothing.
FileRange PartThatGoes(FileId file, int mode, off_t offset, off_t length) {
  const auto begin = static_cast<uint64_t>(offset);
  if (offset < 0 || length <= 0) return {file, 0, 0};
  // Everything behind is moved.
  if ((mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE)) != 0) {
    return {file, begin, UINT64_MAX};
  }
  if ((mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | newer::kFallocWriteZeroes)) != 0) {
    return {file, begin, begin + static_cast<uint64_t>(length)};
  }
  return {file, 0, 0};
}

// In whole pages: a page that is touched in part is written to or goes.
FileRange RoundOut(FileRange part) {
  const HvaRange whole = RoundOutToPages({{part.begin}, {part.end}});
  return {part.file, whole.begin.value, whole.end.value};
}

underfoot_effect EffectOf(int protection) {
  if ((protection & PROT_WRITE) != 0) return UNDERFOOT_NOTHING_GOES;
  return (protection & PROT_READ) != 0 ? UNDERFOOT_WRITES_GO : UNDERFOOT_PAGES_GO;
}

}  // namespace

int Madvise(void* start, size_t length, int advice) {
  const auto raw = [=] { return static_cast<int>(syscall(SYS_madvise, start, length, advice)); };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range) || RuleOf(advice).effect == AdviceEffect::kNothing) return raw();
  return Bracketed(
      UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, advice,
      [=](Bracket& bracket) {
        // It punches a hole into the file: whatever else maps that part of it loses the pages too.
        if (advice == MADV_REMOVE && !UNDERFOOT_MUTANT("remove-spares-aliases")) {
          bracket.AddWithAliases(range);
        } else {
          bracket.Add(range);
        }
      },
      raw);
}

ssize_t ProcessMadvise(int pidfd, const iovec* ranges, size_t count, int advice, unsigned flags) {
  const auto raw = [=] {
    return static_cast<ssize_t>(syscall(SYS_process_madvise, pidfd, ranges, count, advice, flags));
  };
  if (!MayTouch({{0}, {UINT64_MAX}}) || count > kMaxIovecs ||
      RuleOf(advice).effect == AdviceEffect::kNothing || !MayBeOwnPidfd(pidfd)) {
    return raw();
  }
  return Bracketed(
      UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, advice,
      [=](Bracket& bracket) {
        ForEachIovec(ranges, count, [&bracket](const iovec& part) {
          const HvaRange range = RangeAt(part.iov_base, part.iov_len);
          if (MayTouch(range)) bracket.Add(range);
        });
      },
      raw);
}

int Munmap(void* start, size_t length) {
  const auto raw = [=] { return static_cast<int>(syscall(SYS_munmap, start, length)); };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range)) return raw();
  return Bracketed(
      UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(range); }, raw);
}

void* Mremap(void* old_start, size_t old_length, size_t new_length, int flags, void* new_start) {
  const auto raw = [=] {
    return Pointer(syscall(SYS_mremap, old_start, old_length, new_length, flags, new_start));
  };
  constexpr int kMoves = MREMAP_FIXED | MREMAP_DONTUNMAP;
  HvaRange from = RangeAt(old_start, old_length);
  const HvaRange to = RangeAt(new_start, (flags & MREMAP_FIXED) != 0 ? new_length : 0);
  if (!MayTouch(from) && !MayTouch(to)) return raw();
  if ((flags & kMoves) == 0 && new_length <= old_length) {
    from.begin = RoundOutToPages(RangeAt(old_start, new_length)).end;  // only its tail goes
  }
  if ((flags & (kMoves | MREMAP_MAYMOVE)) == 0 && new_length > old_length) {
    from.end = from.begin;  // it grows where it is
  }
  return Bracketed(
      UNDERFOOT_MREMAP, UNDERFOOT_PAGES_GO, flags,
      [=](Bracket& bracket) {
        if (!UNDERFOOT_MUTANT("mremap-spares-the-old-place")) bracket.Add(from);
        if (!UNDERFOOT_MUTANT("mremap-spares-the-new-place")) bracket.Add(to);
      },
      raw);
}

int Mprotect(void* start, size_t length, int protection) {
  const auto raw = [=] {
    return static_cast<int>(syscall(SYS_mprotect, start, length, protection));
  };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range)) return raw();
  return Bracketed(
      UNDERFOOT_MPROTECT, EffectOf(protection), protection,
      [=](Bracket& bracket) { bracket.Add(range); }, raw);
}

int PkeyMprotect(void* start, size_t length, int protection, int key) {
  const auto raw = [=] {
    return static_cast<int>(syscall(SYS_pkey_mprotect, start, length, protection, key));
  };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range)) return raw();
  return Bracketed(
      UNDERFOOT_MPROTECT, EffectOf(protection), protection,
      [=](Bracket& bracket) { bracket.Add(range); }, raw);
}

void* Mmap(void* start, size_t length, int protection, int flags, int fd, off_t offset) {
  const auto raw = [=] {
    return Pointer(syscall(SYS_mmap, start, length, protection, flags, fd, offset));
  };
  const HvaRange range = RangeAt(start, length);
  // Without FIXED, and with NOREPLACE, a mapping never comes over another.
  if ((flags & MAP_FIXED) == 0 || !MayTouch(range)) return raw();
  return Bracketed(
      UNDERFOOT_MMAP, UNDERFOOT_PAGES_GO, flags, [=](Bracket& bracket) { bracket.Add(range); },
      raw);
}

int Fallocate(int fd, int mode, off_t offset, off_t length) {
  const auto raw = [=] {
    return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, length));
  };
  FileId file;
  uint64_t size = 0;
  if (!FileOf(fd, &file, &size)) return raw();
  const FileRange part = RoundOut(PartThatGoes(file, mode, offset, length));
  if (part.begin == part.end) return raw();
  return Bracketed(
      UNDERFOOT_FALLOCATE, UNDERFOOT_PAGES_GO, mode, [=](Bracket& bracket) { bracket.Add(part); },
      raw);
}

int Ftruncate(int fd, off_t length) {
  const auto raw = [=] { return static_cast<int>(syscall(SYS_ftruncate, fd, length)); };
  FileId file;
  uint64_t size = 0;
  if (length < 0 || !FileOf(fd, &file, &size)) return raw();
  const FileRange part = RoundOut({file, static_cast<uint64_t>(length), UINT64_MAX});
  return Bracketed(
      UNDERFOOT_FTRUNCATE, UNDERFOOT_PAGES_GO, 0, [=](Bracket& bracket) { bracket.Add(part); },
      raw);
}

int UffdWriteProtect(int uffd, void* start, size_t length, uint64_t mode) {
  uffdio_writeprotect request{{HvaOf(start).value, length}, mode};
  const auto raw = [&] { return RawIoctl(uffd, UFFDIO_WRITEPROTECT, &request); };
  const HvaRange range = RangeAt(start, length);
  if (!MayTouch(range) || (mode & UFFDIO_WRITEPROTECT_MODE_WP) == 0) return raw();
  return Bracketed(
      UNDERFOOT_WRITEPROTECT, UNDERFOOT_WRITES_GO, static_cast<int>(mode),
      [=](Bracket& bracket) { bracket.Add(range); }, raw);
}

int PagemapScan(int pagemap, newer::PagemapScan* scan) {
  const auto raw = [=] { return RawIoctl(pagemap, newer::kPagemapScan, scan); };
  const HvaRange range{{scan->start}, {scan->end}};
  if (!MayTouch(range) || (scan->flags & newer::kPagemapScanProtect) == 0) return raw();
  return Bracketed(
      UNDERFOOT_WRITEPROTECT, UNDERFOOT_WRITES_GO, UFFDIO_WRITEPROTECT_MODE_WP,
      [=](Bracket& bracket) { bracket.Add(range); }, raw);
}

ssize_t UffdMove(int uffd, void* to, void* from, size_t length, uint64_t mode) {
  newer::UffdioMove request{HvaOf(to).value, HvaOf(from).value, length, mode, 0};
  const auto raw = [&]() -> ssize_t {
    const int result = RawIoctl(uffd, newer::kUffdioMove, &request);
    // EAGAIN half-way: what has been moved is moved.
    return request.move > 0 ? request.move : result;
  };
  const HvaRange source = RangeAt(from, length);
  const HvaRange target = RangeAt(to, length);
  if (!MayTouch(source) && !MayTouch(target)) return raw();
  return Bracketed(
      UNDERFOOT_MOVE, UNDERFOOT_PAGES_GO, 0,
      [=](Bracket& bracket) {
        bracket.Add(source);
        bracket.Add(target);
      },
      raw);
}

}  // namespace underfoot::hooks
