#include "tests/memory/memory_side.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "mmu/base/ordering.h"
#include "mmu/base/rcu.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

std::atomic_ref<uint64_t> WordAt(Hva hva) {
  return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(hva)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemorySide>> MemorySide::Create(CoherentRamOptions options) {
  options.bytes = kBytes;
  options.kernel_events = true;  // tests may listen to records
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = CoherentRam::Create(options);
  if (!ram.ok()) return std::move(ram).status();
  std::unique_ptr<MemorySide> side(new MemorySide(*std::move(ram)));
  for (const RamSlot& slot : side->memory->slots()) {
    const Gfn gfn = GfnOf(slot.gpa);
    if (absl::Status added = side->mmu.CreateMemslot({.id = slot.id,
                                                      .gfns = {gfn, gfn + slot.bytes / kPageSize},
                                                      .hva = slot.hva,
                                                      .flags = {.log_dirty = options.log_writes}});
        !added.ok()) {
      return added;
    }
  }
  return side;
}

MemorySide::MemorySide(std::unique_ptr<CoherentRam> coherent)
    : ram(std::move(coherent)),
      memory(&ram->memory()),
      uffd(ram->uffd()),
      pagemap(ram->pagemap()),
      removals(ram->removals()),
      lazy(ram->lazy_frees()),
      expected(ram->expected()),
      own_changes(ram->own_changes()),
      source(ram->page_source()),
      mmu(ram->mmu()),
      events(ram->events()),
      hooks(ram->hooks()),
      access(ram->access()),
      monitor(ram->monitor()) {}

std::optional<Pte> MemorySide::LeafOf(uint64_t i) {
  rcu::ReadScope rcu;
  const auto leaf = mmu.stage2().Lookup(GfnAt(i));
  // The leaf may be a block: the frame is that of this page.
  if (!leaf.has_value()) return std::nullopt;
  return leaf->pte.WithPfn(leaf->PfnOf(GfnAt(i)));
}

FaultResult MemorySide::Fault(uint64_t i, Access access_wanted) {
  Reader reader(mmu.readers());
  return mmu.faults().HandleFault(reader, GfnAt(i), access_wanted);
}

uint64_t MemorySide::Load(uint64_t i) const { return WordAt(PageAt(i)).load(kAcquire); }

void MemorySide::Store(uint64_t i, uint64_t value) const {
  WordAt(PageAt(i)).store(value, kRelease);
}

void MemorySide::StoreInFile(uint64_t i, uint64_t value) const {
  const auto offset = static_cast<off_t>(GpaAt(i).value);
  EXPECT_EQ(pwrite(memory->fd(), &value, sizeof(value), offset),
            static_cast<ssize_t>(sizeof(value)));
}

HvaRange MemorySide::MapMore() {
  constexpr uint64_t kCount = 4;
  const bool memfd = memory->backing() == Backing::kMemfd;
  const UniqueFd fd(memfd ? memfd_create("more", MFD_CLOEXEC) : -1);
  EXPECT_TRUE(!memfd || ftruncate(fd.get(), kCount * kPageSize) == 0);
  void* const base = mmap(nullptr, kCount * kPageSize, PROT_READ | PROT_WRITE,
                          memfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd.get(), 0);
  EXPECT_NE(base, MAP_FAILED);
  const HvaRange range = PageRangeOf(HvaOf(base), kCount);
  const absl::Status registered = uffd.Register(range, memory->backing());
  EXPECT_TRUE(registered.ok()) << registered;
  const absl::Status attached = hooks.Attach(range, memory->backing(), fd.get());
  EXPECT_TRUE(attached.ok()) << attached;
  const absl::Status created =
      mmu.CreateMemslot({.id = 9, .gfns = {kMore, kMore + kCount}, .hva = range.begin});
  EXPECT_TRUE(created.ok()) << created;
  Reader reader(mmu.readers());
  for (uint64_t i = 0; i < kCount; ++i) {
    EXPECT_EQ(mmu.faults().FaultIn(reader, kMore + i, Access::kWrite).outcome,
              FaultInOutcome::kMapped);
  }
  return range;
}

absl::Status HookedMapOver(HvaRange range, int protection, int flags, int fd, uint64_t offset) {
  void* const mapped = hooks::Mmap(PointerOf(range.begin), range.size(), protection,
                                   flags | MAP_FIXED, fd, static_cast<off_t>(offset));
  return mapped == MAP_FAILED ? absl::ErrnoToStatus(errno, "mmap(MAP_FIXED)") : absl::OkStatus();
}

int ForeignMadvise(HvaRange range, int advice) {
  return syscall(SYS_madvise, range.begin.value, range.size(), advice) == 0 ? 0 : errno;
}

}  // namespace underfoot::testing
