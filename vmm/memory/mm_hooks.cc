#include "vmm/memory/mm_hooks.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>

#include <cerrno>

#include "absl/strings/str_format.h"
#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/ordering.h"

namespace underfoot {
namespace {

// The outcome of a system call, as errno; EINTR and EAGAIN are handled here, once.
template <class Call>
int ErrorOf(const Call& call) {
  while (call() != 0) {
    if (errno != EINTR && errno != EAGAIN) return errno;
    sched_yield();
  }
  return 0;
}

}  // namespace

template <class Call>
absl::Status MmHooks::Bracketed(Invalidation invalidation, bool raises_event, const char* what,
                                const Call& call) {
  const HvaRange range = invalidation.range;
  int error = 0;
  if (UNDERFOOT_MUTANT("hook-after-the-call")) {
    error = ErrorOf(call);
    InvalidationScope late(notifier_, invalidation);
  } else {
    InvalidationScope bracket(notifier_, invalidation);
    raises_event = raises_event && !UNDERFOOT_MUTANT("hook-announces-nothing");
    const uint64_t expectation = raises_event ? expected_.Expect(range) : 0;
    error = ErrorOf(call);
    if (raises_event) expected_.Returned(expectation);
  }
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("%s of hva [0x%x, 0x%x)", what, range.begin.value, range.end.value));
}

absl::Status MmHooks::Madvise(HvaRange range, int advice) {
  const bool raises_event = advice == MADV_DONTNEED || advice == MADV_REMOVE || advice == MADV_FREE;
  return Bracketed({range, InvalidationKind::kUnmap}, raises_event, "madvise",
                   [&] { return madvise(PointerOf(range.begin), range.size(), advice); });
}

absl::Status MmHooks::PunchHole(int fd, uint64_t offset, HvaRange range) {
  return Bracketed({range, InvalidationKind::kUnmap}, false, "fallocate(PUNCH_HOLE)", [&] {
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(range.size()));
  });
}

absl::Status MmHooks::WriteProtect(HvaRange range) {
  return Bracketed({range, InvalidationKind::kProtect}, false, "UFFDIO_WRITEPROTECT", [&] {
    switch (uffd_.WriteProtect(range, true)) {
      case UffdOutcome::kDone:
        return 0;
      case UffdOutcome::kAgain:
        errno = EAGAIN;
        return -1;
      case UffdOutcome::kExists:
      case UffdOutcome::kNoPage:
      case UffdOutcome::kGone:
      case UffdOutcome::kFailed:
        errno = EINVAL;
        return -1;
    }
    return -1;
  });
}

absl::Status MmHooks::Munmap(HvaRange range) {
  return Bracketed({range, InvalidationKind::kUnmap}, true, "munmap",
                   [&] { return munmap(PointerOf(range.begin), range.size()); });
}

MmHooks::Protection::Protection(MmHooks& hooks, HvaRange range, int protection)
    : hooks_(hooks), range_(range) {
  hooks_.protections_.fetch_add(1, kAcqRel);
  hooks_.protection_epoch_.fetch_add(1, kAcqRel);
  token_ = hooks_.notifier_.Begin({range, InvalidationKind::kUnmap});
  if (const int error =
          ErrorOf([&] { return mprotect(PointerOf(range.begin), range.size(), protection); });
      error != 0) {
    status_ = absl::ErrnoToStatus(
        error, absl::StrFormat("mprotect of hva [0x%x, 0x%x)", range.begin.value, range.end.value));
  }
}

MmHooks::Protection::~Protection() {
  const int error = ErrorOf(
      [&] { return mprotect(PointerOf(range_.begin), range_.size(), PROT_READ | PROT_WRITE); });
  // Guest RAM that cannot be made writable again is lost: nothing sensible is left to do. A range
  // that could not be protected, or not all of it, need not be one that can be.
  UNDERFOOT_CHECK(error == 0 || !status_.ok(), "guest RAM stays protected", range_.begin.value,
                  error);
  hooks_.notifier_.End(token_);
  hooks_.protection_epoch_.fetch_add(1, kAcqRel);
  if (hooks_.protections_.fetch_sub(1, kAcqRel) == 1) hooks_.protections_.notify_all();
}

void MmHooks::WaitForNoProtection() const {
  for (uint32_t n = protections_.load(kAcquire); n != 0; n = protections_.load(kAcquire)) {
    protections_.wait(n, kAcquire);
  }
}

}  // namespace underfoot
