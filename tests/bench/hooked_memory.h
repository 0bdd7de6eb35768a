// Guest memory as the machine has it, but without the machine: a memslot over anonymous memory, the
// hooks, and the monitor of its userfaultfd.
//
// Thread safety: that of its parts.

#ifndef UNDERFOOT_TESTS_BENCH_HOOKED_MEMORY_H_
#define UNDERFOOT_TESTS_BENCH_HOOKED_MEMORY_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "mmu/mmu.h"
#include "tests/bench/anonymous_memory.h"
#include "vmm/evidence/event_log.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/ram/guest_page_source.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/mm_hooks.h"
#include "vmm/sources/uffd/uffd_monitor.h"

namespace underfoot::bench {

class HookedMemory {
 public:
  // Registered with userfaultfd, its monitor on `monitor_cpu`.
  static absl::StatusOr<std::unique_ptr<HookedMemory>> Registered(uint64_t pages, int monitor_cpu,
                                                                  const UffdOptions& options = {});
  // Registered, with one handler for each CPU, as the machine has them.
  static absl::StatusOr<std::unique_ptr<HookedMemory>> WithLocalHandlers(uint64_t pages);
  // Translations only: the memory is the kernel's own business.
  static absl::StatusOr<std::unique_ptr<HookedMemory>> Unregistered(uint64_t pages);
  ~HookedMemory();
  HookedMemory(const HookedMemory&) = delete;
  HookedMemory& operator=(const HookedMemory&) = delete;

  const AnonymousMemory& memory() const { return memory_; }
  // Brings pages in and translates them.
  void FaultIn(uint64_t first, uint64_t count);
  // Through the hooks, by madvise and by the cheapest way. Only where it is registered: a hook may
  // wait for the monitor to see the event.
  void Discard(uint64_t first, uint64_t count);
  void DiscardCheaply(uint64_t first, uint64_t count);
  // What is left of a hook without userfaultfd: Begin, the call, End.
  void DiscardInBracket(uint64_t first, uint64_t count);

 private:
  HookedMemory(uint64_t pages, Userfaultfd uffd, Pagemap pagemap, unsigned handlers);
  static absl::StatusOr<std::unique_ptr<HookedMemory>> Create(uint64_t pages,
                                                              const UffdOptions& options = {},
                                                              unsigned handlers = 1);
  absl::Status Register();

  AnonymousMemory memory_;
  // Destroyed before the memory: otherwise the unmap would wait until a thread reads its event.
  Userfaultfd uffd_;
  Pagemap pagemap_;
  PendingRemovals settling_;
  ExpectedEvents expected_;
  GuestPageSource source_;
  Mmu mmu_;
  EventLog events_;
  MmHooks hooks_;
  UffdMonitor monitor_;
  Reader reader_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_HOOKED_MEMORY_H_
