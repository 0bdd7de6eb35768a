#include "vmm/memory/uffd_event_handler.h"

#include <unistd.h>

#include <cstddef>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"

namespace underfoot {
namespace {

// Of longer removals no page is looked at: the reader of userfaultfd has others to serve.
constexpr uint64_t kMostWitnessed = 1024;

}  // namespace

// When it happened is not told: the time before the read stands for it, since what the read lets go
// on comes later. A lag is not known.
void UffdEventHandler::Take(const uffd_msg& message, int64_t read_ns) {
  HostEvent event;
  event.source = EventSource::kUffd;
  event.happened_ns = read_ns;
  switch (message.event) {
    case UFFD_EVENT_REMOVE:
      removes_.Add();
      event.change = HostChange::kDiscard;
      event.range = RemovedRange(message);
      TakeRemoval(event);
      break;
    case UFFD_EVENT_UNMAP:
      unmaps_.Add();
      event.change = HostChange::kUnmap;
      event.range = RemovedRange(message);
      TakeChange(event);
      break;
    case UFFD_EVENT_REMAP:
      remaps_.Add();
      event.change = HostChange::kRemap;
      event.range = {{message.arg.remap.from}, {message.arg.remap.from + message.arg.remap.len}};
      TakeChange(event);
      break;
    case UFFD_EVENT_FORK:
      forks_.Add();
      event.change = HostChange::kFork;
      // The child's own userfaultfd: nobody serves a child, so its faults are the kernel's.
      static_cast<void>(close(static_cast<int>(message.arg.fork.ufd)));
      break;
    default:
      UNDERFOOT_CHECK(false, "an unknown userfaultfd event", message.event, 0);
  }
  if (sink_ == nullptr) return;
  event.taken_ns = MonotonicNs();
  sink_->Report(event);
}

void UffdEventHandler::TakeRemoval(HostEvent& event) {
  event.known = expected_.Consume(event.range);
  if (event.known) return;
  if (lazy_ != nullptr) lazy_->Add(event.range);
  if (!UNDERFOOT_MUTANT("removal-does-not-settle")) {
    const uint64_t removal = settling_.Add(event.range, event.happened_ns);
    settling_.Witness(removal, Translated(event.range));
  }
  event.invalidated = Invalidated(event.range);
}

// A page with a leaf is there: whatever else takes pages drops their leaves first.
std::vector<bool> UffdEventHandler::Translated(HvaRange range) {
  const HvaRange pages = RoundOutToPages(range);
  std::vector<bool> translated(pages.size() >> kPageShift);
  if (translated.size() > kMostWitnessed) return {};
  rcu::ReadScope rcu;
  for (uint64_t i = 0; i < translated.size(); ++i) {
    const Hva page = pages.begin + i * kPageSize;
    const Memslot* const slot = mmu_.memslots().Current().Find(page);
    translated[i] =
        slot != nullptr && mmu_.stage2().Lookup(slot->GfnsOf(PageRangeOf(page)).begin).has_value();
  }
  return translated;
}

// It is over when it is told, so nothing settles.
void UffdEventHandler::TakeChange(HostEvent& event) {
  event.known = expected_.Consume(event.range);
  if (event.known || UNDERFOOT_MUTANT("foreign-unmap-drops-nothing")) return;
  event.invalidated = Invalidated(event.range);
}

// Somebody else's change: the translations go, and the bracket ends at once, since no end will be
// told.
bool UffdEventHandler::Invalidated(HvaRange range) {
  BracketToken token =
      mmu_.notifier().Begin({range, InvalidationKind::kUnmap}, ReaderWait::kNoWait);
  const bool found = token.found();
  mmu_.notifier().End(token);
  return found;
}

// A removal of the last seconds comes first: of an older one only a MADV_FREE can be at work.
void UffdEventHandler::FoundGone(HvaRange page) {
  const bool freed = lazy_ != nullptr && lazy_->MayGo(page) && !settling_.Explains(page);
  (freed ? freed_lazily_ : lost_copies_).Add();
  HostEvent event{.source = EventSource::kUffd,
                  .change = freed ? HostChange::kFreed : HostChange::kLostCopy,
                  .range = page,
                  .happened_ns = MonotonicNs(),
                  .invalidated = Invalidated(page)};
  if (sink_ == nullptr) return;
  event.taken_ns = MonotonicNs();
  sink_->Report(event);
}

void UffdEventHandler::AddTo(UffdStats& stats) const {
  stats.removes = removes_.Get();
  stats.unmaps = unmaps_.Get();
  stats.remaps = remaps_.Get();
  stats.forks = forks_.Get();
  stats.lost_copies_repaired = lost_copies_.Get();
  stats.freed_lazily = freed_lazily_.Get();
  stats.settled_by_record = settling_.passed();
}

}  // namespace underfoot
