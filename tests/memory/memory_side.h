// The memory side of a machine put together as the machine does it, without KVM: real guest RAM,
// real userfaultfd, an Mmu with all of RAM's memslots.
//
// Thread safety: the parts' own.

#ifndef UNDERFOOT_TESTS_MEMORY_MEMORY_SIDE_H_
#define UNDERFOOT_TESTS_MEMORY_MEMORY_SIDE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mmu/mmu.h"
#include "vmm/memory/event_log.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/guest_access.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/guest_page_source.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_monitor.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot::testing {

class MemorySide {
 public:
  static constexpr uint64_t kBytes = uint64_t{32} << 20;

  // `settle`: how long a foreign removal settles. `fault_around`: as of the monitor, which does not
  // run yet.
  static absl::StatusOr<std::unique_ptr<MemorySide>> Create(Backing backing, absl::Duration settle,
                                                            const UffdOptions& options = {},
                                                            uint64_t fault_around = 1);

  // The i-th page of a slot that only tests touch.
  Gfn GfnAt(uint64_t i) const { return GfnOf(memory->slots()[2].gpa) + i; }
  Gpa GpaAt(uint64_t i) const { return GpaOf(GfnAt(i)); }
  Hva PageAt(uint64_t i) const { return memory->slots()[2].hva + i * kPageSize; }
  HvaRange Pages(uint64_t first, uint64_t count = 1) const {
    return {PageAt(first), PageAt(first + count)};
  }

  std::optional<Pte> LeafOf(uint64_t i);
  PagemapEntry EntryOf(uint64_t i) const { return pagemap.Read(PageAt(i)); }
  FaultResult Fault(uint64_t i, Access access);

  // The first word of a page, as anybody's access: it may fault, and wait for the monitor.
  uint64_t Load(uint64_t i) const;
  void Store(uint64_t i, uint64_t value) const;

  // Four pages beside RAM, of the same kind and registered, with a slot and a leaf each. They are
  // the caller's to unmap.
  static constexpr Gfn kMore{0x10000};
  HvaRange MapMore();

  // By the file, past the mapping and userfaultfd. memfd only.
  void StoreInFile(uint64_t i, uint64_t value) const;

  std::unique_ptr<GuestMemory> memory;
  Userfaultfd uffd;
  Pagemap pagemap;
  SettlingRanges settling;
  LazyFrees lazy;
  ExpectedEvents expected;
  GuestPageSource source;
  Mmu mmu;
  EventLog events;
  MmHooks hooks;
  GuestAccess access;
  UffdMonitor monitor;

 private:
  MemorySide(std::unique_ptr<GuestMemory> memory, Userfaultfd uffd, Pagemap pagemap,
             absl::Duration settle, uint64_t fault_around);
};

// A raw madvise(2), as a library would make it that knows nothing of guests. It returns when the
// event was read; 0 or errno.
int ForeignMadvise(HvaRange range, int advice);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_MEMORY_SIDE_H_
