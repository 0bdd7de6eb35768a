// Guest RAM that is kept coherent: the memory, its Mmu and page source, the three sources of
// invalidations, and the evidence that they leave for each other. Everything that has to be known
// before the sources run is in CoherentRamOptions.
//
//   1. Create   opens userfaultfd and pagemap, maps and registers RAM, attaches it to the hooks,
//               which work from here on. No memslot exists, and no page fault is served
//   2. Start    the monitor serves page faults and reads userfaultfd's events
//   3. kernel().Start()   the kernel's records are read too, if the owner wants them
//   4. Stop     the kernel notifier ends, then the monitor. The owner has stopped each thread that
//               may fault on guest RAM or change it
//   5. the destructor calls Stop; the parts go in the reverse order of their construction
//
// Thread safety: Start and Stop by the owner; each part has its own rules.

#ifndef UNDERFOOT_VMM_COHERENT_COHERENT_RAM_H_
#define UNDERFOOT_VMM_COHERENT_COHERENT_RAM_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mmu/mmu.h"
#include "vmm/base/backing.h"
#include "vmm/evidence/event_log.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/foreign_changes.h"
#include "vmm/evidence/lazy_frees.h"
#include "vmm/evidence/mmap_barrier.h"
#include "vmm/evidence/own_changes.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/evidence/removal_records.h"
#include "vmm/ram/file_holes.h"
#include "vmm/ram/guest_access.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/huge_page_pool.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/mm_hooks.h"
#include "vmm/sources/kernel/kernel_notifier.h"
#include "vmm/sources/uffd/uffd_monitor.h"

namespace underfoot {

struct CoherentRamOptions {
  uint64_t bytes = 0;          // see PlanRamSlots
  uint64_t hotplug_bytes = 0;  // behind `bytes`; see GuestMemory::Create
  RamUse use = RamUse::kTestGuest;
  Backing backing = Backing::kAnon;
  HugePages huge_pages = HugePages::kOff;
  UffdOptions uffd = {};
  MmuOptions mmu = {};
  bool log_writes = false;      // see GuestMemory::Create
  uint64_t fault_around = 1;    // the most pages that a fault brings in: 1..512; 1: itself
  unsigned fault_handlers = 1;  // 1..kMostEventReaders; see FaultHandlersForThisHost
  // How long a removal by another thread stays pending if nothing proves its end (PendingRemovals).
  absl::Duration removal_bound = absl::Milliseconds(100);
  // Whether kernel().Start() will be called: changes that the kernel will report although no frame
  // changes are announced to it then.
  bool kernel_events = false;
  // Receives each event of the three sources, from their threads; nullptr: nothing is passed on.
  HostEventSink* event_sink = nullptr;
  // Receives each page that is about to be brought in, and each page that was young to us when the
  // kernel aged it. Any thread; from Start to Stop.
  std::function<void(Hva page)> touch_sink = nullptr;
  // Called by the kernel notifier's thread when its records are open.
  std::function<void()> kernel_open_sink = nullptr;
};

// One for each CPU that this process may use, at most kMostEventReaders.
unsigned FaultHandlersForThisHost();

class CoherentRam {
 public:
  // The error names what this host refused and the remedy. Nothing is left behind.
  static absl::StatusOr<std::unique_ptr<CoherentRam>> Create(const CoherentRamOptions& options);
  // No device request is under way (DirectRequests): its bytes would arrive in what comes to the
  // addresses next. An owner whose request does not end calls LeaveReserved and never destroys this.
  ~CoherentRam();
  CoherentRam(const CoherentRam&) = delete;
  CoherentRam& operator=(const CoherentRam&) = delete;

  [[nodiscard]] absl::Status Start();
  // Idempotent.
  void Stop();
  // Gives the pages of RAM back to the host, and keeps its addresses: a reservation takes the place of
  // the mapping, in one step. For an owner whose device request does not end (DirectRequests): its
  // bytes must not arrive in other memory, which an unmap would let come here. A system call that
  // waits for a page of RAM goes on and fails. The owner has stopped each thread that may fault on
  // RAM, except those of the requests.
  void LeaveReserved();

  GuestMemory& memory() { return *memory_; }
  const GuestMemory& memory() const { return *memory_; }
  Userfaultfd& uffd() { return uffd_; }
  const Pagemap& pagemap() const { return pagemap_; }
  EventLog& events() { return events_; }
  const EventLog& events() const { return events_; }
  PendingRemovals& removals() { return removals_; }
  RemovalRecords& removal_records() { return removal_records_; }
  ForeignChanges& foreign_changes() { return foreign_changes_; }
  LazyFrees& lazy_frees() { return lazy_frees_; }
  ExpectedEvents& expected() { return expected_; }
  OwnChanges& own_changes() { return own_changes_; }
  GuestPageSource& page_source() { return page_source_; }
  Mmu& mmu() { return mmu_; }
  const Mmu& mmu() const { return mmu_; }
  KernelNotifier& kernel() { return kernel_; }
  const KernelNotifier& kernel() const { return kernel_; }
  MmHooks& hooks() { return hooks_; }
  GuestAccess& access() { return access_; }
  UffdMonitor& monitor() { return monitor_; }
  const UffdMonitor& monitor() const { return monitor_; }

 private:
  // Where transparent huge pages come from; both null without --huge-pages thp.
  struct HugePageSources {
    std::unique_ptr<HugePagePool> pool;  // for private memory
    std::unique_ptr<FileHoles> holes;    // for a memfd
  };
  static absl::StatusOr<Userfaultfd> OpenUserfaultfd(const CoherentRamOptions& options);
  static absl::StatusOr<HugePageSources> MakeHugePageSources(const GuestMemory& memory,
                                                             const Userfaultfd& uffd);
  CoherentRam(const CoherentRamOptions& options, std::unique_ptr<GuestMemory> memory,
              Userfaultfd uffd, Pagemap pagemap, HugePageSources huge_pages);
  KernelNotifierOptions KernelOptions(const CoherentRamOptions& options);

  std::unique_ptr<GuestMemory> memory_;
  // Goes before the memory: otherwise its unmap would wait until a thread reads its event.
  Userfaultfd uffd_;
  Pagemap pagemap_;
  EventLog events_;
  PendingRemovals removals_;
  RemovalRecords removal_records_;
  ForeignChanges foreign_changes_;
  MmapBarrier mmap_barrier_;
  LazyFrees lazy_frees_;
  ExpectedEvents expected_;
  OwnChanges own_changes_;
  const HugePageSources huge_pages_;
  GuestPageSource page_source_;
  Mmu mmu_;
  KernelNotifier kernel_;
  MmHooks hooks_;
  GuestAccess access_;
  UffdMonitor monitor_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_COHERENT_COHERENT_RAM_H_
