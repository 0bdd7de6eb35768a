#include "vmm/memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

constexpr uint64_t kSharedSlotBytes = 64 * kPageSize;
constexpr uint64_t kMinRamBytes = 2 * abi::kSystemAreaBytes;

absl::StatusOr<UniqueFd> MakeMemfd(uint64_t bytes) {
  UniqueFd fd(memfd_create("underfoot-ram", MFD_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "memfd_create for guest RAM");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("ftruncate of guest RAM to %d bytes", bytes));
  }
  return fd;
}

// At a multiple of 2 MiB, as the file offset is: only so can pages of a memfd become a huge page.
void* MapAligned(uint64_t bytes, Backing backing, int fd) {
  constexpr uint64_t kAlignment = uint64_t{2} << 20;
  const uint64_t room = bytes + kAlignment;
  void* const reserved =
      mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  const Hva begin = HvaOf(reserved);
  const Hva aligned{(begin.value + kAlignment - 1) / kAlignment * kAlignment};
  const int flags = backing == Backing::kMemfd ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* const base = mmap(PointerOf(aligned), bytes, PROT_READ | PROT_WRITE,
                          flags | MAP_FIXED | MAP_NORESERVE, fd, 0);
  const int error = errno;
  const Hva end = base == MAP_FAILED ? begin : aligned + bytes;
  if (aligned > begin && base != MAP_FAILED) munmap(PointerOf(begin), aligned - begin);
  if (end < begin + room) munmap(PointerOf(end), begin + room - end);
  errno = error;
  return base;
}

}  // namespace

absl::StatusOr<std::vector<RamSlot>> PlanRamSlots(uint64_t bytes) {
  if (bytes < kMinRamBytes || bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("guest RAM of %d bytes: it must be a multiple of 4096 and at least %d MiB",
                        bytes, kMinRamBytes >> 20));
  }
  std::vector<RamSlot> slots;
  Gpa next{0};
  const auto add = [&](uint64_t slot_bytes, std::optional<abi::RangeKind> kind) {
    slots.push_back({static_cast<uint32_t>(slots.size()), next, slot_bytes, Hva{}, kind});
    next += slot_bytes;
  };
  add(abi::kSystemAreaBytes, std::nullopt);
  add(kSharedSlotBytes, abi::RangeKind::kShared);
  const uint64_t quarter = ((bytes - next.value) / 4) & ~kPageMask;
  add(quarter, abi::RangeKind::kPrecious);
  add(quarter, abi::RangeKind::kDiscardable);
  add(quarter, abi::RangeKind::kPrecious);
  add(bytes - next.value, abi::RangeKind::kDiscardable);
  return slots;
}

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(uint64_t bytes, Backing backing,
                                                                 Userfaultfd& uffd) {
  absl::StatusOr<std::vector<RamSlot>> slots = PlanRamSlots(bytes);
  if (!slots.ok()) return std::move(slots).status();
  UniqueFd fd;
  if (backing == Backing::kMemfd) {
    absl::StatusOr<UniqueFd> memfd = MakeMemfd(bytes);
    if (!memfd.ok()) return std::move(memfd).status();
    fd = *std::move(memfd);
  }
  void* const base = MapAligned(bytes, backing, fd.get());
  if (base == MAP_FAILED) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("mmap of %d bytes of guest RAM; ask for less memory", bytes));
  }
  for (RamSlot& slot : *slots) slot.hva = underfoot::HvaOf(base) + slot.gpa.value;
  std::unique_ptr<GuestMemory> memory(
      new GuestMemory(std::move(fd), underfoot::HvaOf(base), bytes, backing, *std::move(slots)));
  // Huge pages would come and go behind the page-sized translations kept here. A hint: a kernel
  // without them says EINVAL.
  static_cast<void>(madvise(base, bytes, MADV_NOHUGEPAGE));
  // A child that some library forks would share the pages, and each write of the guest copy one.
  if (madvise(base, bytes, MADV_DONTFORK) != 0) {
    return absl::ErrnoToStatus(errno, "madvise(MADV_DONTFORK) of guest RAM");
  }
  if (absl::Status registered = uffd.Register(memory->hvas(), backing); !registered.ok()) {
    return registered;
  }
  return memory;
}

GuestMemory::GuestMemory(UniqueFd fd, Hva base, uint64_t bytes, Backing backing,
                         std::vector<RamSlot> slots)
    : fd_(std::move(fd)), base_(base), bytes_(bytes), backing_(backing), slots_(std::move(slots)) {}

GuestMemory::~GuestMemory() { static_cast<void>(munmap(PointerOf(base_), bytes_)); }

absl::Status GuestMemory::AddSlot(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  const Gfn gfn = GfnOf(slot.gpa);
  absl::Status ours = mmu.CreateMemslot(
      {.id = slot.id, .gfns = {gfn, gfn + (slot.bytes >> kPageShift)}, .hva = slot.hva});
  if (!ours.ok()) return ours;
  return gate([&] {
    return vm.SetMemslot({.id = slot.id, .gpa = slot.gpa, .bytes = slot.bytes, .hva = slot.hva});
  });
}

absl::Status GuestMemory::RemoveSlot(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  if (absl::Status kvm = gate([&] { return vm.DeleteMemslot(slot.id); }); !kvm.ok()) return kvm;
  return mmu.DeleteMemslot(slot.id);
}

absl::Status GuestMemory::MoveSlotAway(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  constexpr uint64_t kAlignment = uint64_t{1} << 30;
  const Gpa gpa = slot.gpa + (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  absl::Status kvm = gate([&] {
    return vm.SetMemslot({.id = slot.id, .gpa = gpa, .bytes = slot.bytes, .hva = slot.hva});
  });
  return kvm.ok() ? mmu.MoveMemslot(slot.id, GfnOf(gpa)) : kvm;
}

absl::Status GuestMemory::MoveSlotBack(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  if (absl::Status ours = mmu.MoveMemslot(slot.id, GfnOf(slot.gpa)); !ours.ok()) return ours;
  return gate([&] {
    return vm.SetMemslot({.id = slot.id, .gpa = slot.gpa, .bytes = slot.bytes, .hva = slot.hva});
  });
}

const RamSlot* GuestMemory::FindSlot(Gpa gpa) const {
  for (const RamSlot& slot : slots_) {
    if (slot.Contains(gpa)) return &slot;
  }
  return nullptr;
}

std::vector<abi::DataRange> GuestMemory::DataRanges() const {
  std::vector<abi::DataRange> ranges;
  for (const RamSlot& slot : slots_) {
    if (slot.kind.has_value()) ranges.push_back({slot.gpa.value, slot.bytes, *slot.kind, 0});
  }
  return ranges;
}

std::optional<Hva> GuestMemory::HvaOf(Gpa gpa) const {
  if (gpa.value >= bytes_) return std::nullopt;
  return base_ + gpa.value;
}

}  // namespace underfoot
