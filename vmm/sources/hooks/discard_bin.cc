#include "vmm/sources/hooks/discard_bin.h"

#include <sys/mman.h>

#include <cerrno>

#include "mmu/base/check.h"
#include "vmm/hooks/calls.h"
#include "vmm/sources/hooks/page_move.h"

namespace underfoot {

absl::StatusOr<std::unique_ptr<DiscardBin>> DiscardBin::Create() {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  if (!uffd.ok()) return std::move(uffd).status();
  constexpr uint64_t kBytes = kPages * kPageSize;
  void* const base = hooks::Mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of the bin for discarded pages");
  std::unique_ptr<DiscardBin> bin(new DiscardBin(*std::move(uffd), HvaOf(base)));
  static_cast<void>(hooks::Madvise(base, kBytes, MADV_NOHUGEPAGE));  // a hint
  // No thread touches it, but a child would copy its content.
  static_cast<void>(hooks::Madvise(base, kBytes, MADV_DONTFORK));
  if (absl::Status registered =
          bin->uffd_.Register({bin->base_, bin->base_ + kBytes}, Backing::kAnon);
      !registered.ok()) {
    return registered;
  }
  return bin;
}

DiscardBin::~DiscardBin() {
  static_cast<void>(hooks::Munmap(PointerOf(base_), kPages * kPageSize));
}

std::optional<Hva> DiscardBin::Reserve(uint64_t bytes) {
  absl::MutexLock lock(&mutex_);
  if (used_ + bytes > kPages * kPageSize) {
    if (movers_ != 0 || bytes > kPages * kPageSize) return std::nullopt;
    Drain();
  }
  const Hva place = base_ + used_;
  used_ += bytes;
  ++movers_;
  return place;
}

std::optional<uint64_t> DiscardBin::Take(HvaRange range) {
  const std::optional<Hva> place = Reserve(range.size());
  if (!place.has_value()) return std::nullopt;
  const MovedPages moved = MovePages(uffd_, range, *place);
  absl::MutexLock lock(&mutex_);
  --movers_;
  return moved.error == 0 ? std::optional(moved.bytes) : std::nullopt;
}

void DiscardBin::Drain() {
  const int result = hooks::Madvise(PointerOf(base_), used_, MADV_DONTNEED);
  UNDERFOOT_CHECK(result == 0, "the bin for discarded pages cannot be emptied", base_.value, errno);
  used_ = 0;
}

}  // namespace underfoot
