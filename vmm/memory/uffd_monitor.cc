#include "vmm/memory/uffd_monitor.h"

#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "absl/time/clock.h"
#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "mmu/rcu.h"
#include "vmm/thread_priority.h"

namespace underfoot {
namespace {

constexpr size_t kMessagesPerRead = 16;
constexpr int kRetryMs = 1;

// Whether this thread is a monitor's: its own brackets take no page.
thread_local bool t_is_monitor = false;

Hva FaultingPage(const uffd_msg& message) { return PageOf(Hva{message.arg.pagefault.address}); }

}  // namespace

UffdMonitor::UffdMonitor(Mmu& mmu, Userfaultfd& uffd, const Pagemap& pagemap,
                         GuestPageSource& source, ExpectedEvents& expected,
                         SettlingRanges& settling, HostEventSink* sink, uint64_t fault_around)
    : mmu_(mmu),
      uffd_(uffd),
      pagemap_(pagemap),
      source_(source),
      expected_(expected),
      settling_(settling),
      events_(mmu, expected, settling, sink),
      window_(fault_around) {}

UffdMonitor::~UffdMonitor() { Stop(); }

absl::Status UffdMonitor::Start() {
  wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_.valid()) return absl::ErrnoToStatus(errno, "eventfd for the userfaultfd monitor");
  mmu_.notifier().Register(*this);
  thread_ = std::thread([this] { Main(); });
  return absl::OkStatus();
}

void UffdMonitor::Stop() {
  if (!thread_.joinable()) return;
  mmu_.notifier().Unregister(*this);
  stop_.store(true, kRelease);
  static_cast<void>(eventfd_write(wake_.get(), 1));
  thread_.join();
}

bool UffdMonitor::Invalidate(const Invalidation& invalidation) {
  if (!t_is_monitor) settling_.Spoil(invalidation.range);
  return false;
}

void UffdMonitor::OnEnd(HvaRange) {
  if (deferred_count_.load(kRelaxed) != 0) static_cast<void>(eventfd_write(wake_.get(), 1));
}

void UffdMonitor::Main() {
  NameThisThread("uffd-monitor");
  RaiseThisThread();
  t_is_monitor = true;
  Reader reader(mmu_.readers());
  while (!stop_.load(kAcquire)) {
    std::array<pollfd, 2> fds{{{uffd_.fd(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
    const int timeout = !further_.last.empty() ? 0 : deferred_.empty() ? -1 : kRetryMs;
    static_cast<void>(poll(fds.data(), fds.size(), timeout));
    eventfd_t ignored = 0;
    if (fds[1].revents != 0) static_cast<void>(eventfd_read(wake_.get(), &ignored));
    // In turns: a queue that never runs empty must not starve those that were put off.
    while (ReadAll(reader)) RetryDeferred(reader);
    RetryDeferred(reader);
    GoFurther(reader);
  }
}

// One read; false when it emptied the queue.
bool UffdMonitor::ReadAll(const Reader& reader) {
  batches_.fetch_add(1, kAcqRel);
  const bool some = ReadBatch(reader);
  batches_.fetch_add(1, kAcqRel);
  return some;
}

void UffdMonitor::WaitForBatch() const {
  const uint64_t batch = batches_.load(kAcquire);
  while (batch % 2 != 0 && batches_.load(kAcquire) == batch) sched_yield();
}

bool UffdMonitor::ReadBatch(const Reader& reader) {
  expected_.ForgetReturned();
  std::array<uffd_msg, kMessagesPerRead> buffer;
  const int64_t read_ns = events_.tells() ? MonotonicNs() : 0;
  const absl::StatusOr<size_t> n = uffd_.Read(buffer);
  UNDERFOOT_CHECK(n.ok(), "userfaultfd cannot be read", uffd_.fd(), n.status().raw_code());
  const std::span<const uffd_msg> messages(buffer.data(), *n);
  // The kernel hands out faults before events, whichever came first: events are taken first here.
  CountReordered(messages);
  const auto take = [&](const uffd_msg& message, bool faults) {
    if ((message.event == UFFD_EVENT_PAGEFAULT) != faults) return;
    faults ? TakeFault(reader, message) : events_.Take(message, read_ns);
  };
  const bool faults_first = UNDERFOOT_MUTANT("faults-come-first");
  for (const uffd_msg& message : messages) take(message, faults_first);
  for (const uffd_msg& message : messages) take(message, !faults_first);
  return *n == buffer.size();
}

void UffdMonitor::CountReordered(std::span<const uffd_msg> messages) {
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].event != UFFD_EVENT_REMOVE) continue;
    const HvaRange range = UffdEventHandler::RemovedRange(messages[i]);
    for (const uffd_msg& earlier : messages.first(i)) {
      if (earlier.event == UFFD_EVENT_PAGEFAULT && range.Contains(FaultingPage(earlier))) {
        reordered_.Add();
      }
    }
    for (const Fault& fault : deferred_) {
      if (range.Contains(fault.page)) reordered_.Add();
    }
  }
}

void UffdMonitor::TakeFault(const Reader& reader, const uffd_msg& message) {
  const uint64_t flags = message.arg.pagefault.flags;
  Fault fault;
  fault.page = FaultingPage(message);
  fault.write_protected = (flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
  fault.access = fault.write_protected || (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0 ? Access::kWrite
                                                                                   : Access::kRead;
  fault.minor = (flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0;
  fault.alone = fault.write_protected;
  fault.read_at = absl::Now();
  (fault.write_protected ? wp_ : fault.minor ? minor_ : missing_).Add();
  if (TryResolve(reader, fault) == Attempt::kResolved) return;
  if (UNDERFOOT_MUTANT("deferred-fault-is-forgotten")) return;
  fault.alone = true;  // what stood in its way would stand in the others'
  deferred_.push_back(fault);
  deferred_count_.store(deferred_.size(), kRelaxed);
}

void UffdMonitor::RetryDeferred(const Reader& reader) {
  std::erase_if(deferred_, [&](const Fault& fault) {
    return TryResolve(reader, fault) == Attempt::kResolved;
  });
  deferred_count_.store(deferred_.size(), kRelaxed);
}

std::optional<UffdMonitor::Target> UffdMonitor::TargetOf(Hva page) const {
  rcu::ReadScope rcu;
  const Memslot* slot = mmu_.memslots().Current().Find(page);
  if (slot == nullptr) return std::nullopt;
  const Gfn gfn = slot->GfnsOf(PageRangeOf(page)).begin;
  const GfnRange around = EntryRange(gfn, 1).Intersect(slot->gfns);
  return Target{gfn, {slot->HvaOf(around.begin), slot->HvaOf(around.end)}};
}

FaultResult UffdMonitor::HandleFault(const Reader& reader, const Target& target,
                                     const Fault& fault) {
  const HvaRange pages =
      fault.alone ? PageRangeOf(fault.page) : window_.Next(fault.page, target.around);
  if (pages.size() == kPageSize) {
    return mmu_.faults().HandleFault(reader, target.gfn, fault.access);
  }
  const Gfn first = target.gfn - ((fault.page - pages.begin) >> kPageShift);
  const GfnRange window{first, first + (pages.size() >> kPageShift)};
  const FaultAroundResult result =
      mmu_.faults_around().HandleFault(reader, target.gfn, window, fault.access);
  around_.Add(result.around);
  further_ = {pages, target.around, fault.kind()};
  return result.fault;
}

// Whoever made the stream runs on its window meanwhile; nobody waits for these pages, so whatever
// stands in their way is left to the fault on them. A window at a time: faults come first.
void UffdMonitor::GoFurther(const Reader& reader) {
  const HvaRange pages = window_.Further(further_.last, further_.within);
  further_.last = pages;
  const std::optional<Target> target = pages.empty() ? std::nullopt : TargetOf(pages.begin);
  if (!target.has_value()) return;
  const GuestPageSource::Fault told(pages.begin, further_.kind);
  const GfnRange window{target->gfn, target->gfn + (pages.size() >> kPageShift)};
  around_.Add(mmu_.faults_around().BringIn(reader, window));
}

GuestPageSource::Fault::Kind UffdMonitor::Fault::kind() const {
  using Kind = GuestPageSource::Fault::Kind;
  return alone ? Kind::kUnknown : minor ? Kind::kMinor : Kind::kMissing;  // put off: old news
}

UffdMonitor::Attempt UffdMonitor::TryResolve(const Reader& reader, const Fault& fault) {
  const GuestPageSource::Fault told(fault.page, fault.kind());
  const Attempt attempt = Resolve(reader, fault);
  if (attempt == Attempt::kResolved) Resolved(fault, told.woken());
  return attempt;
}

UffdMonitor::Attempt UffdMonitor::Resolve(const Reader& reader, const Fault& fault) {
  const std::optional<Target> target = TargetOf(fault.page);
  if (!target.has_value()) return ResolveWithoutLeaf(fault);
  if (!fault.write_protected) RepairLostCopy(target->gfn, fault);
  // A reader that has the page in a section and faults on it all the same lost it to somebody else.
  // It must not wait for a bracket, for the bracket's Begin is waiting for it. The host mm call of
  // that bracket has not been made yet, so the page may come in; no translation is made.
  if (mmu_.readers().AnySectionOverlapsUnsafe(PageRangeOf(fault.page)) &&
      !UNDERFOOT_MUTANT("fault-in-a-section-waits")) {
    return ResolveWithoutLeaf(fault);
  }
  const FaultResult result = HandleFault(reader, *target, fault);
  switch (result.outcome) {
    case FaultOutcome::kMapped:
    case FaultOutcome::kSettling:
      return Attempt::kResolved;
    case FaultOutcome::kPresent:
      return ResolveUnderLeaf(fault, result.pte);
    case FaultOutcome::kBlocked:
    case FaultOutcome::kBusy:
    case FaultOutcome::kAgain:
      return Attempt::kDeferred;
    case FaultOutcome::kNoMemslot:
    case FaultOutcome::kReadOnly:
    case FaultOutcome::kFailed:
      return ResolveWithoutLeaf(fault);
  }
  return Attempt::kResolved;
}

UffdMonitor::Attempt UffdMonitor::ResolveWithoutLeaf(const Fault& fault) {
  const PageInResult in = source_.PageIn(fault.page, fault.access);
  if (in.outcome == PageInOutcome::kAgain) return Attempt::kDeferred;
  // Also when it failed: whoever waits then meets the kernel's own answer (SIGSEGV, SIGBUS,
  // EFAULT).
  return Attempt::kResolved;
}

// The leaf grants the access and the host did not: write protection of its own, a fault that
// another thread has resolved meanwhile, or a page lost since RepairLostCopy looked.
UffdMonitor::Attempt UffdMonitor::ResolveUnderLeaf(const Fault& fault, Pte leaf) {
  const PageInResult in = source_.PageIn(fault.page, fault.access);
  if (in.outcome == PageInOutcome::kAgain) return Attempt::kDeferred;
  const bool other = in.outcome == PageInOutcome::kPresent && in.pfn != leaf.pfn();
  if (other && !UNDERFOOT_MUTANT("another-frame-is-no-loss")) {
    events_.FoundGone(PageRangeOf(fault.page));
  }
  return Attempt::kResolved;
}

// M7: a page that stage-2 believes present and that is not there was zapped by a removal whose end
// nobody told. Only evidence counts: a leaf before and after the look at the page, and no bracket
// that explains it.
void UffdMonitor::RepairLostCopy(Gfn gfn, const Fault& fault) {
  const auto leaf = [&]() -> std::optional<Pfn> {
    rcu::ReadScope rcu;
    const auto found = mmu_.stage2().Lookup(gfn);
    return found.has_value() ? std::optional(found->pte.pfn()) : std::nullopt;
  };
  const std::optional<Pfn> before = leaf();
  if (!before.has_value()) return;
  const PagemapEntry entry = pagemap_.Read(fault.page);
  if (entry.present || entry.swapped) return;
  const HvaRange page = PageRangeOf(fault.page);
  if (leaf() != before || mmu_.in_flight().FindOverlap(page).has_value() ||
      UNDERFOOT_MUTANT("lost-copy-unnoticed")) {
    return;
  }
  events_.FoundGone(page);
}

void UffdMonitor::Resolved(const Fault& fault, bool woken) {
  if (!woken && !UNDERFOOT_MUTANT("only-a-copy-wakes")) uffd_.Wake(PageRangeOf(fault.page));
  fault_us_.Record(static_cast<uint64_t>(absl::ToInt64Microseconds(absl::Now() - fault.read_at)));
}

UffdStats UffdMonitor::Stats() const {
  UffdStats stats{.missing = missing_.Get(),
                  .wp = wp_.Get(),
                  .minor = minor_.Get(),
                  .around = around_.Get(),
                  .eagain = source_.eagain(),
                  .reordered = reordered_.Get(),
                  .fault_us = fault_us_.Snapshot()};
  events_.AddTo(stats);
  return stats;
}

}  // namespace underfoot
