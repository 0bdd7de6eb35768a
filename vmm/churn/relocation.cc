#include "vmm/churn/relocation.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

// Long enough for vCPUs to run into the hole.
constexpr absl::Duration kStaysAway = absl::Microseconds(50);

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
  if (!room.ok()) return room.status();
  const MmHooks::Absence absence(hooks_, range);
  const PageInGate::Shut shut(source_.gate(), range);
  // An empty mapping stays: into a hole another thread's mmap could come.
  const int stays = UNDERFOOT_MUTANT("remap-leaves-a-hole") ? 0 : MREMAP_DONTUNMAP;
  if (absl::Status gone = hooks_.Mremap(range, *room, stays); !gone.ok()) return gone;
  absl::SleepFor(kStaysAway);
  if (absl::Status back = hooks_.Mremap({*room, *room + range.size()}, range.begin); !back.ok()) {
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
  room_ = std::make_unique<Room>(Room{*base, *std::move(uffd)});
  static_cast<void>(madvise(PointerOf(*base), kMaxPages * kPageSize, MADV_NOHUGEPAGE));  // a hint
  static_cast<void>(madvise(PointerOf(*base), kMaxPages * kPageSize, MADV_DONTFORK));
  if (absl::Status registered =
          room_->uffd.Register({*base, *base + kMaxPages * kPageSize}, Backing::kAnon);
      !registered.ok()) {
    return registered;
  }
  return room_.get();
}

// Not by the answer of UFFDIO_MOVE: Linux 6.18 says EEXIST of a page that it has moved when the
// page was on its way to or from swap space meanwhile.
bool Relocation::IsIn(Hva room_page) const {
  const PagemapEntry entry = source_.pagemap().Read(room_page);
  return entry.present || entry.swapped;
}

// A page that is pinned, or shared with a child just now, stays where it is; so does a hole.
bool Relocation::MoveOut(Hva from, Room& room, Hva to) {
  if (IsIn(to)) return false;  // of a move that failed
  const absl::Status moved = hooks_.Move(room.uffd, PageRangeOf(from), to);
  return UNDERFOOT_MUTANT("move-out-believes-the-answer") ? moved.ok() : IsIn(to);
}

// Reclaim and migration hold a page for a moment, and it cannot be moved meanwhile.
absl::Status Relocation::MoveBack(Hva from, Hva to) {
  constexpr int kTries = 1000;
  absl::Status back;
  for (int i = 0; i < kTries; ++i) {
    back = hooks_.Move(uffd_, PageRangeOf(from), to);
    if (UNDERFOOT_MUTANT("move-back-believes-the-answer") ? back.ok() : !IsIn(from)) {
      return absl::OkStatus();
    }
    absl::SleepFor(absl::Microseconds(10));
  }
  return back.ok() ? absl::InternalError("a page that was moved away does not come back") : back;
}

absl::StatusOr<ChurnOutcome> Relocation::Move(HvaRange range) {
  const absl::StatusOr<Room*> room = RoomForPages();
  if (absl::IsUnimplemented(room.status())) return ChurnOutcome::kDeclined;
  if (!room.ok()) return room.status();
  const Hva base = (*room)->base;
  uint64_t gone = 0;  // a bit a page
  const InvalidationScope away(notifier_, {range, InvalidationKind::kUnmap});
  const PageInGate::Shut shut(source_.gate(), range);
  for (uint64_t at = 0; at < range.size(); at += kPageSize) {
    if (MoveOut(range.begin + at, **room, base + at)) gone |= uint64_t{1} << (at / kPageSize);
  }
  absl::Status back;
  for (uint64_t at = 0; at < range.size(); at += kPageSize) {
    if ((gone >> (at / kPageSize) & 1) != 0) back.Update(MoveBack(base + at, range.begin + at));
  }
  if (!back.ok()) return back;  // what did not come back stays in the room, and is not overwritten
  if (madvise(PointerOf(base), range.size(), MADV_DONTNEED) != 0) {
    return absl::ErrnoToStatus(errno, "emptying the room for pages that are away");
  }
  return gone != 0 ? ChurnOutcome::kDone : ChurnOutcome::kDeclined;
}

}  // namespace underfoot
