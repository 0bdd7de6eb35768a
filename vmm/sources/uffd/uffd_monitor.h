// The source below the hooks: its handlers read userfaultfd, bring in the pages that fault, and
// learn from the events what other threads and processes do to guest RAM.
//
// Its promise is half pairs: REMOVE is a start whose end is never reported; UNMAP and REMAP are ends
// whose start was never reported.
//
// One handler serves the faults of all CPUs: it runs anywhere and has a raised priority. Several
// handlers are pinned, each to CPUs of its own, so that a fault is served where its thread has just
// gone to sleep. They have the policy SCHED_BATCH: they do not preempt a vCPU, although a fault wakes
// all of them. A handler that has put a fault off is raised until it has resolved it. They read one
// message at a time, so no handler takes the faults of another CPU along. A handler whose
// wake-ups are spurious again and again backs off for a few milliseconds (handler_back_off.h).
//
// Order is repaired, not ignored: a fault may be read before the removal that preceded it (counted:
// reordered), and a page copied in just after a removal was read may be zapped by it (lost copy:
// found at the next fault, invalidated, copied again).
//
// Thread safety: Start and Stop by the owner; Stats from any thread.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_UFFD_MONITOR_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_UFFD_MONITOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "mmu/notifier.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/uffd/fault_resolver.h"
#include "vmm/sources/uffd/handler_thread.h"
#include "vmm/sources/uffd/uffd_event_handler.h"
#include "vmm/stats/stats.h"

namespace underfoot {

struct UffdMonitorOptions {
  uint64_t fault_around = 1;  // the most pages that are brought in for a fault, 1..512; 1: itself
  unsigned handlers = 1;      // 1..kMostEventReaders
};

class UffdMonitor final : public Subscriber {
 public:
  UffdMonitor(Mmu& mmu, Userfaultfd& uffd, const Pagemap& pagemap, GuestPageSource& source,
              ExpectedEvents& expected, PendingRemovals& removals,
              const UffdEventOptions& events = {}, const UffdMonitorOptions& options = {});
  ~UffdMonitor() override;
  UffdMonitor(const UffdMonitor&) = delete;
  UffdMonitor& operator=(const UffdMonitor&) = delete;

  [[nodiscard]] absl::Status Start();
  // From here on no thread may fault on guest RAM or change it.
  void Stop();

  UffdStats Stats() const;
  void CountLostCopy() { events_.CountLostCopy(); }

  // Returns when every event that was read before the call has been applied. If an event explains
  // why a page is gone, it was read before the page went, but may not be applied yet.
  void WaitForBatch() const { pending_.reads().Wait(); }

  bool Invalidate(const Invalidation& invalidation) override;
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange range) override;

 private:
  Mmu& mmu_;
  GuestPageSource& source_;
  PendingRemovals& pending_;
  UffdEventHandler events_;
  FaultResolver resolver_;
  HandlerContext context_;
  // Made by the constructor, so that any thread may count them and wake them.
  std::vector<std::unique_ptr<HandlerThread>> handlers_;
  bool started_ = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_UFFD_MONITOR_H_
