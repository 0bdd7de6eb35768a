#include "vmm/sources/hooks/mm_hooks.h"

#include <sys/mman.h>

#include <cerrno>
#include <memory>
#include <new>
#include <optional>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/base/check.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/hooks/advice.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/mapping.h"
#include "vmm/sources/hooks/hooked_calls.h"

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

std::string_view NameOfCall(const underfoot_change& change) {
  switch (change.call) {
    case UNDERFOOT_MADVISE:
      return "madvise";
    case UNDERFOOT_MUNMAP:
      return "munmap";
    case UNDERFOOT_MREMAP:
      return "mremap";
    case UNDERFOOT_MPROTECT:
      return "mprotect";
    case UNDERFOOT_MMAP:
      return "mmap";
    case UNDERFOOT_FALLOCATE:
      return "fallocate";
    case UNDERFOOT_FTRUNCATE:
      return "ftruncate";
    case UNDERFOOT_WRITEPROTECT:
      return "UFFDIO_WRITEPROTECT";
    case UNDERFOOT_MOVE:
      return "UFFDIO_MOVE";
    case UNDERFOOT_FORK:
      return "fork";
  }
  return "";
}

// `bin` may be null. Pages that a UFFDIO_MOVE carries into the bin do not come back: they are
// discarded.
HostChange ChangeOf(const underfoot_change& change, const DiscardBin* bin) {
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
      return bin != nullptr && bin->TakesThrough(change.argument) ? HostChange::kDiscard
                                                                  : HostChange::kMove;
    case UNDERFOOT_FORK:  // not asked for
      return HostChange::kFork;
  }
  return HostChange::kDiscard;
}

// How many userfaultfd events report each byte.
uint64_t EventsOf(const underfoot_change& change, UffdEvents reported) {
  if (reported == UffdEvents::kNone) return 0;
  switch (change.call) {
    case UNDERFOOT_MADVISE:
      return reported == UffdEvents::kAll && hooks::RuleOf(change.argument).raises_event ? 1 : 0;
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
    case UNDERFOOT_FORK:
      return 0;
  }
  return 0;
}

InvalidationKind KindOf(const underfoot_change& change) {
  // A leaf that mprotect has made read-only would look like one that the mapping grants, so no leaf
  // may stay.
  return change.effect == UNDERFOOT_WRITES_GO && change.call != UNDERFOOT_MPROTECT
             ? InvalidationKind::kProtect
             : InvalidationKind::kUnmap;
}

// What is there afterwards is not what was there before.
bool ReplacesContent(const underfoot_change& change) {
  if (change.call == UNDERFOOT_MADVISE) {
    return hooks::Discards(change.argument) && change.argument != MADV_FREE;
  }
  return change.call == UNDERFOOT_MUNMAP || change.call == UNDERFOOT_MMAP ||
         change.call == UNDERFOOT_MOVE;
}

// After ENOMEM a part of the range had no mapping, and the rest may be done. Linux 6.18 answers
// UFFDIO_MOVE with EEXIST also of a page that it has moved; see Relocation::IsIn. A collapse may
// have given a file its huge page and then not have mapped it (EINVAL; see HugePageChurn::Collapse).
bool MayBeDone(const underfoot_change& change) {
  return change.error == 0 || change.error == ENOMEM ||
         (change.call == UNDERFOOT_MOVE && change.error == EEXIST) ||
         (change.call == UNDERFOOT_MADVISE && change.argument == newer::kMadvCollapse &&
          change.error == EINVAL);
}

bool RevokesAccess(const underfoot_change& change) {
  return change.effect != UNDERFOOT_NOTHING_GOES;
}

}  // namespace

MmHooks::MmHooks(Notifier& notifier, Userfaultfd& uffd, ExpectedEvents& expected,
                 HostEventSink* sink, LazyFrees* lazy)
    : notifier_(notifier),
      uffd_(uffd),
      expected_(expected),
      sink_(sink),
      lazy_(lazy),
      protected_(notifier) {
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

absl::Status MmHooks::Attach(HvaRange range, Backing backing, int fd, uint64_t offset,
                             HugePages huge_pages) {
  absl::MutexLock lock(&mutex_);
  Ram& ram = rams_.emplace_back(Ram{this, range, backing, fd, offset, huge_pages, 0});
  underfoot_range attached{};
  attached.start = PointerOf(range.begin);
  attached.length = range.size();
  attached.fd = fd;
  attached.file_offset = offset;
  attached.context = &ram;
  // noexcept: without memory here the process ends. A bracket that nobody ends would keep its range
  // from being mapped for ever.
  attached.begin = [](void* context, underfoot_change* change) noexcept {
    const Ram& own = *static_cast<Ram*>(context);
    own.hooks->OnBegin(own, *change);
  };
  attached.end = [](void* context, underfoot_change* change) noexcept {
    const Ram& own = *static_cast<Ram*>(context);
    own.hooks->OnEnd(own, *change);
  };
  // In turn: protected_ must note two changes of one mapping in the order in which the kernel has
  // made them.
  const int error = hooks::Attach(attached, &ram.handle, hooks::MappingCalls::kInTurn);
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

// What loses its translations. When the kernel splits a huge page of a file, or its mapping, it
// unmaps all of its pages: they stay in the file, and come back by minor faults. Of private memory
// the other pages stay mapped.
Invalidation MmHooks::InvalidationOf(const Ram& ram, const underfoot_change& change) {
  const HvaRange range = RangeOf(change);
  if (ram.backing != Backing::kMemfd || ram.huge_pages != HugePages::kThp) {
    return {range, KindOf(change)};
  }
  const HvaRange blocks{{range.begin.value / kBlockBytes * kBlockBytes},
                        {(range.end.value + kBlockBytes - 1) / kBlockBytes * kBlockBytes}};
  return {blocks.Intersect(ram.range), InvalidationKind::kUnmap};
}

void MmHooks::OnBegin(const Ram& ram, underfoot_change& change) {
  auto* const pending = new (change.scratch) Pending;
  if (change.call == UNDERFOOT_MPROTECT && RevokesAccess(change)) protected_.Announce();
  if (RevokesAccess(change)) pending->token = notifier_.Begin(InvalidationOf(ram, change));
  if (lazy_ != nullptr && ReplacesContent(change)) pending->was_lazy = lazy_->Take(RangeOf(change));
  if (const uint64_t events = EventsOf(change, uffd_.events()); events != 0) {
    pending->expectation = expected_.Expect(RangeOf(change), events);
  }
  if (sink_ != nullptr) pending->began_ns = MonotonicNs();
}

void MmHooks::OnEnd(const Ram& ram, underfoot_change& change) {
  Pending* const pending = std::launder(reinterpret_cast<Pending*>(change.scratch));
  const HvaRange range = RangeOf(change);
  if (pending->expectation != 0) expected_.Returned(pending->expectation);
  const bool replaced = change.call == UNDERFOOT_MMAP || change.call == UNDERFOOT_MREMAP;
  // A mapping that came here is not registered, or no more than it was elsewhere. Where one went,
  // or this is no memory of guests, there is nothing to register: guest accesses fail there.
  if (replaced && change.error == 0) {
    static_cast<void>(GuestMemory::RegisterAgain(range, ram.backing, ram.huge_pages, uffd_));
  }
  // The kernel wakes no thread that waits for a page of a mapping which is moved, unmapped, replaced
  // or protected. A system call that waits so goes on, and ends with fewer bytes.
  if (replaced || change.call == UNDERFOOT_MUNMAP || change.call == UNDERFOOT_MPROTECT) {
    uffd_.Wake(range);
  }
  NoteWhatIsLazy(change, pending->was_lazy);
  if (sink_ != nullptr && MayBeDone(change)) {
    HostEvent event;
    event.source = EventSource::kHook;
    event.change = ChangeOf(change, bin_.get());
    event.call = NameOfCall(change);
    event.range = range;
    event.happened_ns = pending->began_ns;
    event.taken_ns = pending->began_ns;
    event.tid = ThisThread();
    event.cause = HostCause::kThisProcess;
    event.invalidated = RevokesAccess(change) && pending->token.found();
    sink_->Report(event);
  }
  if (change.call == UNDERFOOT_MPROTECT) {
    OnProtected(change, std::move(pending->token));
  } else {
    if (change.error == 0) LiftWhatWasReplaced(change);
    notifier_.End(pending->token);
  }
  pending->~Pending();
}

// A mapping keeps its permissions where mremap moves it, so it may come back protected. Therefore
// mremap lifts a protection only where the kernel shows a mapping that grants everything. A
// protected place that is left empty stays protected until a mapping comes there.
void MmHooks::LiftWhatWasReplaced(const underfoot_change& change) {
  const HvaRange range = RangeOf(change);
  if (change.call == UNDERFOOT_MUNMAP || change.call == UNDERFOOT_MMAP) protected_.Lift(range);
  if (change.call != UNDERFOOT_MREMAP || !protected_.any()) return;
  const hooks::MappingQuery query;
  hooks::Mapping mapping;
  for (Hva at = range.begin;
       at < range.end && query.FindFrom(at, &mapping) == hooks::MappingQuery::Answer::kFound;
       at = mapping.hvas.end) {
    if (mapping.read_write) protected_.Lift(mapping.hvas.Intersect(range));
  }
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
  if (!RevokesAccess(change)) {
    if (!kept) protected_.Lift(RangeOf(change));
  } else if (kept) {
    protected_.Withdraw(std::move(token));
  } else {
    // The bracket of the call may have been wider (InvalidationOf). What stays protected gets a
    // bracket of its own before that one ends.
    const HvaRange range = RangeOf(change);
    if (RoundOutToPages(token.range()) != RoundOutToPages(range)) {
      BracketToken own = notifier_.Begin({range, InvalidationKind::kUnmap});
      notifier_.End(token);
      token = std::move(own);
    }
    protected_.Hold(std::move(token));
  }
}

absl::StatusOr<uint64_t> MmHooks::Discard(HvaRange range) {
  const Ram* const ram = Find(range);
  if (ram == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("discard of hva [0x%x, 0x%x): not inside of attached guest RAM",
                        range.begin.value, range.end.value));
  }
  if (const uint64_t page = HostPageBytes(ram->huge_pages);
      range.begin.value % page != 0 || range.size() % page != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "discard of hva [0x%x, 0x%x): of memory in huge pages (%s) only whole pages can go; give "
        "multiples of 0x%x",
        range.begin.value, range.end.value, HugePagesName(ram->huge_pages), page));
  }
  // A hugetlb page cannot be moved, and a part of a transparent one only after it is split, which
  // costs more than the event that a move avoids.
  const bool moves =
      ram->backing == Backing::kAnon && bin_ != nullptr && ram->huge_pages == HugePages::kOff;
  if (const auto taken = moves ? bin_->Take(range) : std::nullopt; taken.has_value()) return *taken;
  const uint64_t offset = ram->offset + (range.begin - ram->range.begin);
  const absl::Status gone = ram->backing == Backing::kMemfd
                                ? hooked::PunchHole(ram->fd, offset, range.size())
                                : hooked::Madvise(range, MADV_DONTNEED);
  if (!gone.ok()) return gone;
  return range.size();
}

// An absence lasts longer than a call.

MmHooks::Absence::Absence(MmHooks& hooks, HvaRange range) : hooks_(hooks) {
  hooks_.protected_.Announce();
  token_ = hooks_.notifier_.Begin({range, InvalidationKind::kUnmap});
}

MmHooks::Absence::~Absence() { hooks_.protected_.Withdraw(std::move(token_)); }

}  // namespace underfoot
