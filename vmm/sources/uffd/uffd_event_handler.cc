#include "vmm/sources/uffd/uffd_event_handler.h"

#include <cstddef>

#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "vmm/ram/guest_memory.h"

namespace underfoot {
namespace {

// In a longer removal no page is looked at: a handler has faults to serve.
constexpr uint64_t kMostPagesLookedAt = 1024;

}  // namespace

// The kernel does not report when the change happened. The time before the read stands for it: what
// the read lets go on comes later. A lag is not known.
void UffdEventHandler::Apply(const uffd_msg& message, const Before& before) {
  HostEvent event;
  event.source = EventSource::kUffd;
  event.happened_ns = before.read_ns;
  switch (message.event) {
    case UFFD_EVENT_REMOVE:
      removes_.Add();
      event.change = HostChange::kDiscard;
      event.range = RemovedRange(message);
      ApplyRemoval(event, before.returns);
      break;
    case UFFD_EVENT_UNMAP:
      unmaps_.Add();
      event.change = HostChange::kUnmap;
      event.range = RemovedRange(message);
      ApplyChange(event, before.returns);
      break;
    case UFFD_EVENT_REMAP:
      remaps_.Add();
      event.change = HostChange::kRemap;
      event.range = {{message.arg.remap.from}, {message.arg.remap.from + message.arg.remap.len}};
      ApplyChange(event, before.returns);
      break;
    case UFFD_EVENT_FORK:
      forks_.Add();
      event.change = HostChange::kFork;
      // The child's own userfaultfd: no handler serves a child, so the kernel handles its faults.
      static_cast<void>(close(static_cast<int>(message.arg.fork.ufd)));
      break;
    default:
      UNDERFOOT_CHECK(false, "an unknown userfaultfd event", message.event, 0);
  }
  if (sink_ == nullptr) return;
  event.taken_ns = MonotonicNs();
  sink_->Report(event);
}

void UffdEventHandler::ApplyRemoval(HostEvent& event, uint64_t since) {
  event.known = expected_.Consume(event.range, since);
  if (event.known) return;
  if (lazy_ != nullptr) lazy_->Add(event.range);
  // In this order: a page-in that claims later finds the removal pending; a page-in that claimed
  // earlier loses its claim or its leaf to the invalidation.
  const uint64_t removal = pending_.Add(event.range, event.happened_ns);
  UNDERFOOT_SYNC_POINT("removal-added");
  pending_.NotePresent(removal, Translated(event.range));
  DropRemoved(event);
}

// Which pages of the range have a leaf. A page with a leaf is present, unless another handler has
// read an event about it that it has not applied yet: then the removals share their evidence.
std::vector<bool> UffdEventHandler::Translated(HvaRange range) {
  const HvaRange pages = RoundOutToPages(range);
  std::vector<bool> translated(pages.size() >> kPageShift);
  if (translated.size() > kMostPagesLookedAt) return {};
  rcu::ReadScope rcu;
  for (uint64_t i = 0; i < translated.size(); ++i) {
    const Hva page = pages.begin + i * kPageSize;
    const Memslot* const slot = mmu_.memslots().Current().Find(page);
    translated[i] =
        slot != nullptr && mmu_.stage2().Lookup(slot->GfnsOf(PageRangeOf(page)).begin).has_value();
  }
  return translated;
}

// The change is over when its event comes, so no removal becomes pending.
void UffdEventHandler::ApplyChange(HostEvent& event, uint64_t since) {
  event.known = expected_.Consume(event.range, since);
  if (event.known) return;
  pending_.Reopen(event.range);
  RegisterAgain(event.range);
  DropRemoved(event);
}

// The kernel sends the event when the new mapping is in place. UFFDIO_REGISTER waits for mmap_lock,
// and no thread that holds it waits for this one.
void UffdEventHandler::RegisterAgain(HvaRange range) {
  range = range.Intersect(ram_);
  if (range.empty()) return;
  if (GuestMemory::RegisterAgain(range, backing_, huge_pages_, uffd_).ok()) return;
  if (sink_ == nullptr) return;
  HostEvent unwatched{.source = EventSource::kUffd,
                      .change = HostChange::kLostRecords,
                      .range = range,
                      .happened_ns = MonotonicNs()};
  unwatched.taken_ns = unwatched.happened_ns;
  sink_->Report(unwatched);
}

void UffdEventHandler::DropRemoved(HostEvent& event) {
  event.invalidated = Invalidated(event.range);
  if (removal_records_ != nullptr) removal_records_->Reported(event.range, event.happened_ns);
}

// A change by another thread or process: the bracket ends at once, because no end will be reported.
bool UffdEventHandler::Invalidated(HvaRange range) {
  BracketToken token =
      mmu_.notifier().Begin({range, InvalidationKind::kUnmap, &monitor_}, ReaderWait::kNoWait);
  const bool found = token.found();
  mmu_.notifier().End(token);
  return found;
}

// A removal of the last seconds comes first: of an older one only a MADV_FREE can be at work.
void UffdEventHandler::FoundGone(HvaRange page) {
  const bool freed = lazy_ != nullptr && lazy_->MayGo(page) && !pending_.Explains(page);
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
  stats.settled_by_record = pending_.passed();
}

}  // namespace underfoot
