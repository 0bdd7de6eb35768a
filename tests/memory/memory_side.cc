#include "tests/memory/memory_side.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "mmu/ordering.h"
#include "mmu/rcu.h"

namespace underfoot::testing {
namespace {

std::atomic_ref<uint64_t> WordAt(Hva hva) {
  return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(hva)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MemorySide>> MemorySide::Create(Backing backing,
                                                               absl::Duration settle,
                                                               const UffdOptions& options,
                                                               uint64_t fault_around) {
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(options);
  if (!uffd.ok()) return std::move(uffd).status();
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  if (!pagemap.ok()) return std::move(pagemap).status();
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory = GuestMemory::Create(kBytes, backing, *uffd);
  if (!memory.ok()) return std::move(memory).status();
  std::unique_ptr<MemorySide> side(new MemorySide(*std::move(memory), *std::move(uffd),
                                                  *std::move(pagemap), settle, fault_around));
  const GuestMemory& ram = *side->memory;
  if (absl::Status attached = side->hooks.Attach(ram.hvas(), backing, ram.fd()); !attached.ok()) {
    return attached;
  }
  for (const RamSlot& slot : side->memory->slots()) {
    const Gfn gfn = GfnOf(slot.gpa);
    if (absl::Status added = side->mmu.CreateMemslot(
            {.id = slot.id, .gfns = {gfn, gfn + slot.bytes / kPageSize}, .hva = slot.hva});
        !added.ok()) {
      return added;
    }
  }
  return side;
}

MemorySide::MemorySide(std::unique_ptr<GuestMemory> ram, Userfaultfd userfaultfd, Pagemap map,
                       absl::Duration settle, uint64_t fault_around)
    : memory(std::move(ram)),
      uffd(std::move(userfaultfd)),
      pagemap(std::move(map)),
      settling(settle),
      lazy(memory->backing() == Backing::kAnon ? memory->hvas() : HvaRange()),
      source(uffd, pagemap, settling, memory->backing()),
      mmu(source),
      hooks(mmu.notifier(), uffd, expected, &events),
      access(mmu, *memory, pagemap),
      monitor(mmu, uffd, pagemap, source, expected, settling, &events, fault_around) {
  hooks.NoteLazyFrees(lazy);
  monitor.NoteLazyFrees(lazy);
}

std::optional<Pte> MemorySide::LeafOf(uint64_t i) {
  rcu::ReadScope rcu;
  const auto leaf = mmu.stage2().Lookup(GfnAt(i));
  return leaf.has_value() ? std::optional(leaf->pte) : std::nullopt;
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
              FaultOutcome::kMapped);
  }
  return range;
}

int ForeignMadvise(HvaRange range, int advice) {
  return syscall(SYS_madvise, range.begin.value, range.size(), advice) == 0 ? 0 : errno;
}

}  // namespace underfoot::testing
