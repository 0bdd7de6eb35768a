#include "vmm/churn/relocation.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot {
namespace {

// Long enough that vCPUs fault in the hole.
constexpr absl::Duration kStaysAway = absl::Microseconds(50);

// The host lacks memory, descriptors or mappings just now.
bool IsShortage(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
}

absl::StatusOr<Hva> Reserve(uint64_t bytes, int protection) {
  void* const base =
      mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of room for pages that are away");
  return HvaOf(base);
}

}  // namespace

Relocation::~Relocation() {
  if (room_ != nullptr) static_cast<void>(munmap(PointerOf(room_->base), kMaxPages * kPageSize));
}

absl::StatusOr<ChurnOutcome> Relocation::Remap(HvaRange range) {
  const absl::StatusOr<Hva> room = Reserve(range.size(), PROT_NONE);
  if (IsShortage(room.status())) return ChurnOutcome::kDeclined;
  if (!room.ok()) return room.status();
  const MmHooks::Absence absence(hooks_, range);
  const PageInGate::Shut shut(source_.gate(), range);
  // An empty mapping stays behind: another thread's mmap could use a hole. EFAULT: the range
  // consists of several mappings, because another thread has mapped a part of it anew. EINVAL: this
  // kernel has no MREMAP_DONTUNMAP for such memory. EAGAIN: over RLIMIT_MEMLOCK.
  if (absl::Status gone = hooked::Mremap(range, *room, MREMAP_DONTUNMAP); !gone.ok()) {
    // In both cases nothing has moved.
    if (absl::IsInvalidArgument(gone) || absl::IsUnavailable(gone)) return ChurnOutcome::kDeclined;
    return gone;
  }
  absl::SleepFor(kStaysAway);
  if (absl::Status back = hooked::Mremap({*room, *room + range.size()}, range.begin); !back.ok()) {
    return back;
  }
  return ChurnOutcome::kDone;
}

absl::StatusOr<Relocation::Room*> Relocation::RoomForPages() {
  if (room_ != nullptr) return room_.get();
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  if (!uffd.ok()) return std::move(uffd).status();
  const absl::StatusOr<Hva> base = Reserve(kMaxPages * kPageSize, PROT_READ | PROT_WRITE);
  if (!base.ok()) return base.status();
  auto room = std::make_unique<Room>(Room{*base, *std::move(uffd)});
  static_cast<void>(madvise(PointerOf(*base), kMaxPages * kPageSize, MADV_NOHUGEPAGE));  // a hint
  static_cast<void>(madvise(PointerOf(*base), kMaxPages * kPageSize, MADV_DONTFORK));
  if (absl::Status registered =
          room->uffd.Register({*base, *base + kMaxPages * kPageSize}, Backing::kAnon);
      !registered.ok()) {
    static_cast<void>(munmap(PointerOf(*base), kMaxPages * kPageSize));
    return registered;
  }
  room_ = std::move(room);
  return room_.get();
}

// The result of UFFDIO_MOVE is not used: Linux 6.18 returns EEXIST for a page that it has moved, if
// the page was on its way to or from swap space at that time.
bool Relocation::IsIn(Hva room_page) const {
  const PagemapEntry entry = source_.pagemap().Read(room_page);
  return entry.present || entry.swapped;
}

// A page that is pinned, or shared with a child at this moment, stays where it is. So does a hole.
bool Relocation::MoveOut(Hva from, Room& room, Hva to) {
  if (IsIn(to)) return false;  // left there by a failed move
  static_cast<void>(hooked::Move(room.uffd, PageRangeOf(from), to));
  return IsIn(to);
}

// Reclaim and migration hold a page for a moment, and it cannot be moved during that time.
absl::Status Relocation::MoveBack(Hva from, Hva to) {
  constexpr int kTries = 1000;
  absl::Status back;
  for (int i = 0; i < kTries; ++i) {
    back = hooked::Move(uffd_, PageRangeOf(from), to);
    if (!IsIn(from)) return absl::OkStatus();
    absl::SleepFor(absl::Microseconds(10));
  }
  return back.ok() ? absl::InternalError("a page that was moved away does not come back") : back;
}

absl::StatusOr<ChurnOutcome> Relocation::Move(HvaRange range) {
  const absl::StatusOr<Room*> room = RoomForPages();
  if (absl::IsUnimplemented(room.status()) || IsShortage(room.status())) {
    return ChurnOutcome::kDeclined;  // no page has moved yet
  }
  if (!room.ok()) return room.status();
  const Hva base = (*room)->base;
  uint64_t gone = 0;  // one bit for each page
  const InvalidationScope away(notifier_, {range, InvalidationKind::kUnmap});
  const PageInGate::Shut shut(source_.gate(), range);
  for (uint64_t at = 0; at < range.size(); at += kPageSize) {
    if (MoveOut(range.begin + at, **room, base + at)) gone |= uint64_t{1} << (at / kPageSize);
  }
  absl::Status back;
  for (uint64_t at = 0; at < range.size(); at += kPageSize) {
    if ((gone >> (at / kPageSize) & 1) != 0) back.Update(MoveBack(base + at, range.begin + at));
  }
  // A page that did not come back stays in the room and is not overwritten.
  if (!back.ok()) return back;
  if (madvise(PointerOf(base), range.size(), MADV_DONTNEED) != 0) {
    return absl::ErrnoToStatus(errno, "emptying the room for pages that are away");
  }
  return gone != 0 ? ChurnOutcome::kDone : ChurnOutcome::kDeclined;
}

}  // namespace underfoot
