#include "vmm/sources/uffd/uffd_monitor.h"

#include <cstddef>
#include <utility>

#include "vmm/base/cpus.h"

namespace underfoot {
namespace {

// The CPUs of one handler of several: its share of those that this process may use, so that each CPU
// has a handler. With more handlers than CPUs some share a CPU.
std::vector<int> CpusOf(const std::vector<int>& cpus, size_t handler, size_t handlers) {
  if (handlers >= cpus.size()) return {cpus[handler % cpus.size()]};
  const auto first = [&](size_t i) {
    return cpus.begin() + static_cast<ptrdiff_t>(i * cpus.size() / handlers);
  };
  return {first(handler), first(handler + 1)};
}

}  // namespace

UffdMonitor::UffdMonitor(Mmu& mmu, Userfaultfd& uffd, const Pagemap& pagemap,
                         GuestPageSource& source, ExpectedEvents& expected,
                         PendingRemovals& removals, const UffdEventOptions& events,
                         const UffdMonitorOptions& options)
    : mmu_(mmu),
      source_(source),
      pending_(removals),
      events_(mmu, uffd, *this, expected, removals, events),
      resolver_(mmu, uffd, pagemap, source, removals.reads(), events_, options.fault_around),
      context_{.mmu = mmu,
               .uffd = uffd,
               .reads = removals.reads(),
               .events = events_,
               .resolver = resolver_} {
  if (options.handlers == 1) {
    handlers_.push_back(std::make_unique<HandlerThread>(
        context_, HandlerPlace{.messages = HandlerThread::kMostMessages}));
    return;
  }
  const std::vector<int> cpus = AllowedCpus();
  for (unsigned i = 0; i < options.handlers; ++i) {
    handlers_.push_back(std::make_unique<HandlerThread>(
        context_, HandlerPlace{.index = i, .cpus = CpusOf(cpus, i, options.handlers)}));
  }
}

UffdMonitor::~UffdMonitor() { Stop(); }

absl::Status UffdMonitor::Start() {
  mmu_.notifier().Register(*this);
  started_ = true;
  for (const auto& handler : handlers_) {
    if (absl::Status started = handler->Start(); !started.ok()) {
      Stop();
      return started;
    }
  }
  return absl::OkStatus();
}

void UffdMonitor::Stop() {
  if (!std::exchange(started_, false)) return;
  mmu_.notifier().Unregister(*this);
  for (const auto& handler : handlers_) handler->Stop();
  for (const auto& handler : handlers_) handler->Join();
}

bool UffdMonitor::Invalidate(const Invalidation& invalidation) {
  // A bracket of a handler follows a change that the host has made: it takes no page.
  if (invalidation.origin != this) pending_.DiscardEvidence(invalidation.range);
  return false;
}

void UffdMonitor::OnEnd(HvaRange) {
  for (const auto& handler : handlers_) handler->WakeIfBlocked();
}

UffdStats UffdMonitor::Stats() const {
  UffdStats stats;
  stats.handlers = static_cast<uint32_t>(handlers_.size());
  for (size_t i = 0; i < handlers_.size(); ++i) {
    const HandlerThread::Counters& counters = handlers_[i]->counters();
    stats.by_handler.faults[i] = counters.missing.Get() + counters.wp.Get() + counters.minor.Get();
    stats.missing += counters.missing.Get();
    stats.wp += counters.wp.Get();
    stats.minor += counters.minor.Get();
    stats.reordered += counters.reordered.Get();
    stats.put_off += counters.put_off.Get();
    stats.cpu_samples += counters.cpu_samples.Get();
    stats.crossed_cpus += counters.crossed_cpus.Get();
  }
  stats.by_handler.handlers = stats.handlers;
  stats.fork_waits = context_.fork_waits_count.Get();
  stats.eagain = source_.eagain();
  resolver_.AddTo(stats);
  events_.AddTo(stats);
  return stats;
}

}  // namespace underfoot
