#include "vmm/memory/mm_hooks.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "mmu/check.h"
#include "mmu/mutant.h"
#include "vmm/hooks/advice.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"
#include "vmm/memory/page_move.h"
#include "vmm/unique_fd.h"

namespace underfoot {
namespace {

// What a begin leaves for its end, in the change's scratch.
struct Pending {
  BracketToken token;
  uint64_t expectation = 0;  // 0: none
  int64_t began_ns = 0;
  bool was_lazy = false;  // some page that may go lazily was in the range
};
static_assert(sizeof(Pending) <= sizeof(underfoot_change::scratch));

HvaRange RangeOf(const underfoot_change& change) {
  const Hva start = HvaOf(change.start);
  return {start, start + change.length};
}

HostChange ChangeOf(const underfoot_change& change) {
  switch (change.call) {
    case UNDERFOOT_MADVISE:
      return hooks::Discards(change.argument) ? HostChange::kDiscard : HostChange::kAdvise;
    case UNDERFOOT_MUNMAP:
      return HostChange::kUnmap;
    case UNDERFOOT_MREMAP:
      return HostChange::kRemap;
    case UNDERFOOT_MPROTECT:
      return HostChange::kProtect;
    case UNDERFOOT_MMAP:
      return HostChange::kMapOver;
    case UNDERFOOT_FALLOCATE:
    case UNDERFOOT_FTRUNCATE:
      return HostChange::kPunch;
    case UNDERFOOT_WRITEPROTECT:
      return HostChange::kWriteProtect;
    case UNDERFOOT_MOVE:
      return HostChange::kMove;
  }
  return HostChange::kDiscard;
}

// How many userfaultfd events tell of each byte.
uint64_t EventsOf(const underfoot_change& change, UffdEvents told) {
  if (told == UffdEvents::kNone || UNDERFOOT_MUTANT("hook-announces-nothing")) return 0;
  switch (change.call) {
    case UNDERFOOT_MADVISE:
      return told == UffdEvents::kAll && hooks::RuleOf(change.argument).raises_event ? 1 : 0;
    case UNDERFOOT_MUNMAP:
    case UNDERFOOT_MMAP:
      return 1;
    case UNDERFOOT_MREMAP:
      return (change.argument & MREMAP_DONTUNMAP) != 0 ? 1 : 2;  // REMAP and UNMAP
    case UNDERFOOT_MPROTECT:
    case UNDERFOOT_FALLOCATE:
    case UNDERFOOT_FTRUNCATE:
    case UNDERFOOT_WRITEPROTECT:
    case UNDERFOOT_MOVE:
      return 0;
  }
  return 0;
}

InvalidationKind KindOf(const underfoot_change& change) {
  // What mprotect takes is not told from a mapping that grants it: there nothing may stay.
  return change.effect == UNDERFOOT_WRITES_GO && change.call != UNDERFOOT_MPROTECT
             ? InvalidationKind::kProtect
             : InvalidationKind::kUnmap;
}

// What is there afterwards is not what was there before.
bool Renews(const underfoot_change& change) {
  if (change.call == UNDERFOOT_MADVISE) {
    return hooks::Discards(change.argument) && change.argument != MADV_FREE;
  }
  return change.call == UNDERFOOT_MUNMAP || change.call == UNDERFOOT_MMAP ||
         change.call == UNDERFOOT_MOVE;
}

bool Narrows(const underfoot_change& change) { return change.effect != UNDERFOOT_NOTHING_GOES; }

bool ChangesMapping(const underfoot_change& change) {
  return change.call == UNDERFOOT_MPROTECT || change.call == UNDERFOOT_MUNMAP ||
         change.call == UNDERFOOT_MREMAP || change.call == UNDERFOOT_MMAP;
}

// Calls that change mappings take turns, each from before the call until ProtectedRanges knows of
// it: two at once could be noted in another order than the kernel has made them. One lock, since
// there is one mm. The first of a call's pieces takes it, for all of them.
// Order: outside of every other lock; held over the call and over Begin of a call's later pieces,
// so no reader in a section may wait for it.
absl::Mutex g_mapping_turn(absl::kConstInit);
thread_local unsigned t_pieces_in_turn = 0;

void TakeMappingTurn() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (UNDERFOOT_MUTANT("mappings-change-at-once")) return;
  if (t_pieces_in_turn++ == 0) g_mapping_turn.Lock();
}

void LeaveMappingTurn() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  if (UNDERFOOT_MUTANT("mappings-change-at-once")) return;
  if (--t_pieces_in_turn == 0) g_mapping_turn.Unlock();
}

// A system call's outcome as errno; EINTR and EAGAIN are handled here, once.
template <class Call>
int ErrorOf(const Call& call) {
  while (!call()) {
    if (errno != EINTR && errno != EAGAIN) return errno;
    sched_yield();
  }
  return 0;
}

template <class Call>
absl::Status Outcome(const char* what, HvaRange range, const Call& call) {
  const int error = ErrorOf(call);
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("%s of hva [0x%x, 0x%x)", what, range.begin.value, range.end.value));
}

}  // namespace

MmHooks::MmHooks(Notifier& notifier, Userfaultfd& uffd, ExpectedEvents& expected,
                 HostEventSink* sink)
    : notifier_(notifier), uffd_(uffd), expected_(expected), sink_(sink), protected_(notifier) {
  if (absl::StatusOr<std::unique_ptr<DiscardBin>> bin = DiscardBin::Create(); bin.ok()) {
    bin_ = *std::move(bin);
  }
}

MmHooks::~MmHooks() {
  absl::MutexLock lock(&mutex_);
  for (const Ram& ram : rams_) {
    const int error = hooks::Detach(ram.handle);
    UNDERFOOT_CHECK(error == 0, "guest RAM cannot be detached", ram.range.begin.value, error);
  }
}

absl::Status MmHooks::Attach(HvaRange range, Backing backing, int fd, uint64_t offset) {
  absl::MutexLock lock(&mutex_);
  Ram& ram = rams_.emplace_back(Ram{this, range, backing, fd, offset, 0});
  underfoot_range attached{};
  attached.start = PointerOf(range.begin);
  attached.length = range.size();
  attached.fd = fd;
  attached.file_offset = offset;
  attached.context = &ram;
  attached.begin = [](void* context, underfoot_change* change) {
    static_cast<Ram*>(context)->hooks->OnBegin(*change);
  };
  attached.end = [](void* context, underfoot_change* change) {
    const Ram& own = *static_cast<Ram*>(context);
    own.hooks->OnEnd(own, *change);
  };
  const int error = hooks::Attach(attached, &ram.handle);
  if (error == 0) return absl::OkStatus();
  rams_.pop_back();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("attaching guest RAM at hva [0x%x, 0x%x); %d ranges fit in a process",
                             range.begin.value, range.end.value, UNDERFOOT_MAX_RANGES));
}

const MmHooks::Ram* MmHooks::Find(HvaRange range) const {
  absl::MutexLock lock(&mutex_);
  for (const Ram& ram : rams_) {
    if (ram.range.Contains(range)) return &ram;
  }
  return nullptr;
}

void MmHooks::OnBegin(underfoot_change& change) {
  auto* const pending = new (change.scratch) Pending;
  if (change.call == UNDERFOOT_MPROTECT && Narrows(change)) protected_.Announce();
  if (Narrows(change)) pending->token = notifier_.Begin({RangeOf(change), KindOf(change)});
  if (lazy_ != nullptr && Renews(change)) pending->was_lazy = lazy_->Take(RangeOf(change));
  if (const uint64_t events = EventsOf(change, uffd_.events()); events != 0) {
    pending->expectation = expected_.Expect(RangeOf(change), events);
  }
  if (ChangesMapping(change)) TakeMappingTurn();
  if (sink_ != nullptr) pending->began_ns = MonotonicNs();
}

void MmHooks::OnEnd(const Ram& ram, underfoot_change& change) {
  Pending* const pending = std::launder(reinterpret_cast<Pending*>(change.scratch));
  const HvaRange range = RangeOf(change);
  if (pending->expectation != 0) expected_.Returned(pending->expectation);
  const bool replaced = change.call == UNDERFOOT_MMAP || change.call == UNDERFOOT_MREMAP;
  // A mapping that came here is not registered, or no more than it was elsewhere. Where one went,
  // or this is no memory of guests, there is nothing to register: guest accesses fail there.
  if (replaced && change.error == 0 && !UNDERFOOT_MUTANT("remap-back-is-not-registered")) {
    static_cast<void>(uffd_.Register(range, ram.backing));
  }
  NoteWhatIsLazy(change, pending->was_lazy);
  // After ENOMEM a part of the range had no mapping, and the rest may be done.
  if (sink_ != nullptr && (change.error == 0 || change.error == ENOMEM)) {
    HostEvent event;
    event.source = EventSource::kHook;
    event.change = ChangeOf(change);
    event.range = range;
    event.happened_ns = pending->began_ns;
    event.taken_ns = pending->began_ns;
    event.tid = ThisThread();
    event.cause = HostCause::kThisProcess;
    event.invalidated = Narrows(change) && pending->token.found();
    sink_->Report(event);
  }
  if (change.call == UNDERFOOT_MPROTECT) {
    OnProtected(change, std::move(pending->token));
  } else {
    const bool gone = replaced || change.call == UNDERFOOT_MUNMAP;
    if (gone && change.error == 0) protected_.Lift(range);
    notifier_.End(pending->token);
  }
  if (ChangesMapping(change)) LeaveMappingTurn();
  pending->~Pending();
}

// Also after an error: the first of several mappings may be done.
void MmHooks::NoteWhatIsLazy(const underfoot_change& change, bool was_lazy) {
  if (lazy_ == nullptr) return;
  if (change.call == UNDERFOOT_MADVISE && change.argument == MADV_FREE) {
    lazy_->Add(RangeOf(change));
  } else if (was_lazy) {
    lazy_->Return(RangeOf(change));
  }
}

void MmHooks::OnProtected(underfoot_change& change, BracketToken token) {
  const bool kept = change.error != 0 && change.error != ENOMEM;
  if (!Narrows(change)) {
    if (!kept) protected_.Lift(RangeOf(change));
  } else if (kept || UNDERFOOT_MUTANT("protection-ends-with-the-call")) {
    protected_.Withdraw(std::move(token));
  } else {
    protected_.Hold(std::move(token));
  }
}

absl::Status MmHooks::Madvise(HvaRange range, int advice) {
  return Outcome("madvise", range,
                 [&] { return hooks::Madvise(PointerOf(range.begin), range.size(), advice) == 0; });
}

absl::Status MmHooks::ProcessMadvise(std::span<const HvaRange> ranges, int advice) {
  if (ranges.empty()) return absl::OkStatus();
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  if (!self.valid()) return absl::ErrnoToStatus(errno, "pidfd_open of this process");
  std::vector<iovec> parts;
  HvaRange hull = ranges.front();
  for (const HvaRange range : ranges) {
    parts.push_back({PointerOf(range.begin), range.size()});
    hull = {std::min(hull.begin, range.begin), std::max(hull.end, range.end)};
  }
  size_t done = 0;
  return Outcome("process_madvise", hull, [&] {
    // A part of the ranges may be done: on with the rest.
    while (done < parts.size()) {
      ssize_t bytes =
          hooks::ProcessMadvise(self.get(), &parts[done], parts.size() - done, advice, 0);
      if (bytes < 0) return false;
      for (; done < parts.size() && static_cast<size_t>(bytes) >= parts[done].iov_len; ++done) {
        bytes -= static_cast<ssize_t>(parts[done].iov_len);
      }
      if (bytes == 0) continue;
      parts[done].iov_base = static_cast<char*>(parts[done].iov_base) + bytes;
      parts[done].iov_len -= static_cast<size_t>(bytes);
    }
    return true;
  });
}

absl::Status MmHooks::Discard(HvaRange range) {
  const Ram* const ram = Find(range);
  if (ram == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("discard of hva [0x%x, 0x%x): not inside of attached guest RAM",
                        range.begin.value, range.end.value));
  }
  if (ram->backing == Backing::kMemfd) {
    return PunchHole(ram->fd, ram->offset + (range.begin - ram->range.begin), range.size());
  }
  if (bin_ != nullptr && bin_->Take(range)) return absl::OkStatus();
  return Madvise(range, MADV_DONTNEED);
}

absl::Status MmHooks::PunchHole(int fd, uint64_t offset, uint64_t bytes) {
  const int error = ErrorOf([&] {
    return hooks::Fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                            static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0;
  });
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      error, absl::StrFormat("fallocate(PUNCH_HOLE) of descriptor %d at [0x%x, 0x%x)", fd, offset,
                             offset + bytes));
}

absl::Status MmHooks::Truncate(int fd, uint64_t bytes) {
  const int error = ErrorOf([&] { return hooks::Ftruncate(fd, static_cast<off_t>(bytes)) == 0; });
  if (error == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(error,
                             absl::StrFormat("ftruncate of descriptor %d to %d bytes", fd, bytes));
}

absl::Status MmHooks::Munmap(HvaRange range) {
  return Outcome("munmap", range,
                 [&] { return hooks::Munmap(PointerOf(range.begin), range.size()) == 0; });
}

absl::Status MmHooks::Mremap(HvaRange from, Hva to, int flags) {
  return Outcome("mremap", from, [&] {
    return hooks::Mremap(PointerOf(from.begin), from.size(), from.size(),
                         flags | MREMAP_MAYMOVE | MREMAP_FIXED, PointerOf(to)) != MAP_FAILED;
  });
}

absl::Status MmHooks::Shrink(HvaRange range, uint64_t bytes) {
  return Outcome("mremap", range, [&] {
    return hooks::Mremap(PointerOf(range.begin), range.size(), bytes, 0, nullptr) != MAP_FAILED;
  });
}

absl::Status MmHooks::MapOver(HvaRange range, int protection, int flags, int fd, uint64_t offset) {
  return Outcome("mmap(MAP_FIXED)", range, [&] {
    return hooks::Mmap(PointerOf(range.begin), range.size(), protection, flags | MAP_FIXED, fd,
                       static_cast<off_t>(offset)) != MAP_FAILED;
  });
}

absl::Status MmHooks::WriteProtect(HvaRange range, bool protect) {
  return Outcome("UFFDIO_WRITEPROTECT", range, [&] {
    return hooks::UffdWriteProtect(uffd_.fd(), PointerOf(range.begin), range.size(),
                                   protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0) == 0;
  });
}

absl::StatusOr<std::vector<HvaRange>> MmHooks::TakeWritten(const Pagemap& pagemap, HvaRange range) {
  return pagemap.Written(range, [](int fd, newer::PagemapScan* scan) {
    scan->flags = newer::kPagemapScanProtect;
    return hooks::PagemapScan(fd, scan);
  });
}

absl::Status MmHooks::Move(const Userfaultfd& uffd, HvaRange from, Hva to) {
  return Outcome("UFFDIO_MOVE", from, [&] {
    errno = MovePages(uffd, from, to);
    return errno == 0;
  });
}

absl::Status MmHooks::Mprotect(HvaRange range, int protection) {
  return Outcome("mprotect", range, [&] {
    return hooks::Mprotect(PointerOf(range.begin), range.size(), protection) == 0;
  });
}

MmHooks::Absence::Absence(MmHooks& hooks, HvaRange range) : hooks_(hooks) {
  hooks_.protected_.Announce();
  token_ = hooks_.notifier_.Begin({range, InvalidationKind::kUnmap});
}

MmHooks::Absence::~Absence() { hooks_.protected_.Withdraw(std::move(token_)); }

MmHooks::Protection::Protection(MmHooks& hooks, HvaRange range, int protection)
    : hooks_(hooks), range_(range), status_(hooks.Mprotect(range, protection)) {}

MmHooks::Protection::~Protection() {
  const absl::Status lifted = hooks_.Mprotect(range_, PROT_READ | PROT_WRITE);
  // Guest RAM that cannot be made writable again is lost: nothing sensible is left to do. A range
  // that could not be protected, or not all of it, need not be one that can be.
  UNDERFOOT_CHECK(lifted.ok() || !status_.ok(), "guest RAM stays protected", range_.begin.value,
                  lifted.raw_code());
}

}  // namespace underfoot
