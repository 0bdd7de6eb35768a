// The event pages of a machine: the ports by which the guest gives and closes them, the thread that
// sends, which never blocks, and the thread that does what may block.
//
//   free --port: gfn--> placed --worker--> open --port: 0--> open, --sender--> quiet --worker--> closed
//                                                            closing
//
// The sender sends a few events on each open page and, less often, writes the time. It stands for what
// sends events in a hypervisor where no thread may sleep: an interrupt handler, a timer, a vCPU that
// sends to another one. When a page is closing it sends nothing more, and the worker then writes the
// totals (EventPage::Close).
//
// Before the guest gives its first page, there is no thread and no EventPage.
//
// Thread safety: Access by any vCPU thread; Stop by the owner, when no vCPU runs any more; all else by
// any thread.

#ifndef UNDERFOOT_VMM_DEVICES_EVENT_PAGES_H_
#define UNDERFOOT_VMM_DEVICES_EVENT_PAGES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "guest/abi.h"
#include "mmu/mmu.h"
#include "vmm/kvm/exits.h"
#include "vmm/stats/device_info.h"
#include "vmm/stats/stats.h"

namespace underfoot {

class EventPages {
 public:
  // `ram`: a page is taken only if it lies there.
  EventPages(Mmu& mmu, GfnRange ram, unsigned vcpus, uint64_t seed);
  ~EventPages();
  EventPages(const EventPages&) = delete;
  EventPages& operator=(const EventPages&) = delete;

  static bool Claims(uint16_t port) {
    return port == abi::kVmEventPort || port == abi::kVcpuEventPort;
  }
  ExitOutcome Access(unsigned vcpu, const PortIo& io) ABSL_LOCKS_EXCLUDED(mutex_);
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // The error that keeps the service from starting (eventfd, threads, memory); OK if there is none.
  absl::Status failure() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The pages that the guest has given.
  std::vector<EventPageInfo> Info() const ABSL_LOCKS_EXCLUDED(mutex_);
  // All but what the guest counts.
  EventPagesStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  class Service;

  void Give(unsigned page, Gfn gfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Mmu& mmu_;
  const GfnRange ram_;
  const unsigned vcpus_;
  const uint64_t seed_;

  // Guards: the service, which is made once and then stays. Order: innermost of vmm/. Held across: the
  // start of two threads.
  mutable absl::Mutex mutex_;
  std::unique_ptr<Service> service_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_EVENT_PAGES_H_
