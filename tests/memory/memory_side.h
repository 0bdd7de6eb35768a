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
#include "vmm/coherent/coherent_ram.h"

namespace underfoot::testing {

class MemorySide {
 public:
  static constexpr uint64_t kBytes = uint64_t{32} << 20;

  // RAM of kBytes, whatever the options say. The monitor does not run yet.
  static absl::StatusOr<std::unique_ptr<MemorySide>> Create(CoherentRamOptions options);

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

  const std::unique_ptr<CoherentRam> ram;
  // Its parts.
  GuestMemory* const memory;
  Userfaultfd& uffd;
  const Pagemap& pagemap;
  PendingRemovals& removals;
  LazyFrees& lazy;
  ExpectedEvents& expected;
  OwnChanges& own_changes;
  GuestPageSource& source;
  Mmu& mmu;
  EventLog& events;
  MmHooks& hooks;
  GuestAccess& access;
  UffdMonitor& monitor;

 private:
  explicit MemorySide(std::unique_ptr<CoherentRam> coherent);
};

// mmap(2) with MAP_FIXED, by its hooked call.
absl::Status HookedMapOver(HvaRange range, int protection, int flags, int fd, uint64_t offset);

// A raw madvise(2), as a library would make it that knows nothing of guests. It returns when the
// event was read; 0 or errno.
int ForeignMadvise(HvaRange range, int advice);

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_MEMORY_SIDE_H_
