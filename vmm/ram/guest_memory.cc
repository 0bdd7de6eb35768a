#include "vmm/ram/guest_memory.h"

#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/ram/aligned_mapping.h"

namespace underfoot {
namespace {

constexpr uint64_t kSharedSlotBytes = 112 * kPageSize;
constexpr uint64_t kMinRamBytes = 2 * abi::kSystemAreaBytes;

// MAP_HUGETLB or MFD_HUGETLB, with the size of the pages: both calls encode it in the same way.
unsigned HugetlbFlags(HugePages huge_pages, unsigned hugetlb) {
  if (!IsHugetlb(huge_pages)) return 0;
  const unsigned shift = huge_pages == HugePages::k1G ? 30 : 21;
  static_assert(MAP_HUGE_SHIFT == MFD_HUGE_SHIFT);
  return hugetlb | shift << MAP_HUGE_SHIFT;
}

absl::Status MappingError(int error, uint64_t bytes, HugePages huge_pages) {
  const std::string pages = IsHugetlb(huge_pages)
                                ? absl::StrFormat(" in huge pages (%s)", HugePagesName(huge_pages))
                                : "";
  rlimit limit{};
  const bool limited = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
  return absl::ErrnoToStatus(
      error, absl::StrFormat("mmap of %d bytes of guest RAM%s; ask for less memory%s%s", bytes,
                             pages, IsHugetlb(huge_pages) ? ", or reserve more huge pages" : "",
                             limited ? absl::StrFormat(", or raise `ulimit -v`, which is %u KiB",
                                                       limit.rlim_cur >> 10)
                                     : ""));
}

absl::StatusOr<UniqueFd> MakeMemfd(uint64_t bytes, HugePages huge_pages) {
  UniqueFd fd(memfd_create("underfoot-ram", MFD_CLOEXEC | HugetlbFlags(huge_pages, MFD_HUGETLB)));
  if (!fd.valid()) return ErrnoStatus(errno, "memfd_create for guest RAM");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("ftruncate of guest RAM to %d bytes", bytes));
  }
  return fd;
}

// At a multiple of the size of a huge page, as the file offset is: only so can pages of a memfd
// become a huge page, and a huge page become a block of the guest. Hugetlb pages are promised to the
// mapping here, so that a later fault finds one.
void* MapRam(uint64_t bytes, Backing backing, HugePages huge_pages, int fd) {
  const int kind =
      backing == Backing::kMemfd
          ? MAP_SHARED
          : MAP_PRIVATE | MAP_ANONYMOUS | static_cast<int>(HugetlbFlags(huge_pages, MAP_HUGETLB));
  const int reserve = IsHugetlb(huge_pages) ? 0 : MAP_NORESERVE;
  return MapAligned(bytes, std::max(SlotGranule(huge_pages), kBlockBytes), kind | reserve, fd);
}

// Without --huge-pages thp, the kernel must not make huge pages of guest RAM on its own.
int HugePageAdvice(HugePages huge_pages) {
  return huge_pages == HugePages::kThp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
}

}  // namespace

absl::StatusOr<std::vector<RamSlot>> PlanRamSlots(uint64_t bytes, HugePages huge_pages,
                                                  RamUse use) {
  if (const std::string_view why = RamSizeError(bytes, huge_pages);
      bytes % kPageSize == 0 && !why.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of %d bytes in huge pages (%s): %s", bytes, HugePagesName(huge_pages), why));
  }
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
  if (use == RamUse::kLinux) {
    const uint64_t granule = std::max(SlotGranule(huge_pages), kBlockBytes);
    add(granule, abi::RangeKind::kPrecious);
    const uint64_t quarter = (bytes - granule) / 4 / granule * granule;
    for (int i = 0; quarter != 0 && i < 3; ++i) add(quarter, abi::RangeKind::kPrecious);
    add(bytes - next.value, abi::RangeKind::kPrecious);
    return slots;
  }
  add(abi::kSystemAreaBytes, std::nullopt);
  const uint64_t granule = SlotGranule(huge_pages);
  add(granule == kPageSize ? kSharedSlotBytes : kBlockBytes, abi::RangeKind::kShared);
  const uint64_t first = next.value;
  const uint64_t quarter = ((bytes - first) / 4) & ~kPageMask;
  // The end of the nth quarter.
  const auto end = [&](uint64_t n) { return (first + n * quarter) / granule * granule; };
  add(end(1) - next.value, abi::RangeKind::kPrecious);
  add(end(2) - next.value, abi::RangeKind::kDiscardable);
  add(end(3) - next.value, abi::RangeKind::kPrecious);
  add(bytes - next.value, abi::RangeKind::kDiscardable);
  return slots;
}

absl::StatusOr<std::unique_ptr<GuestMemory>> GuestMemory::Create(uint64_t bytes, Backing backing,
                                                                 HugePages huge_pages,
                                                                 Userfaultfd& uffd, bool log_writes,
                                                                 RamUse use,
                                                                 uint64_t hotplug_bytes) {
  absl::StatusOr<std::vector<RamSlot>> slots = PlanRamSlots(bytes, huge_pages, use);
  if (!slots.ok()) return std::move(slots).status();
  const Gpa hotplug{bytes};
  if (hotplug_bytes != 0) {
    if ((bytes | hotplug_bytes) % kHotplugBlockBytes != 0 || IsHugetlb(huge_pages)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%d bytes of guest RAM and %d bytes of hot-pluggable memory behind it: "
                          "both must be whole "
                          "blocks of %d bytes, and not of hugetlb pages",
                          bytes, hotplug_bytes, kHotplugBlockBytes));
    }
    slots->push_back({.id = static_cast<uint32_t>(slots->size()),
                      .gpa = hotplug,
                      .bytes = hotplug_bytes,
                      .hva = {},
                      .kind = abi::RangeKind::kPrecious,
                      .hotplug = true});
    bytes += hotplug_bytes;
  }
  UniqueFd fd;
  if (backing == Backing::kMemfd) {
    absl::StatusOr<UniqueFd> memfd = MakeMemfd(bytes, huge_pages);
    if (!memfd.ok()) return std::move(memfd).status();
    fd = *std::move(memfd);
  }
  void* const base = MapRam(bytes, backing, huge_pages, fd.get());
  if (base == MAP_FAILED) {
    return MappingError(errno, bytes, huge_pages);
  }
  for (RamSlot& slot : *slots) slot.hva = underfoot::HvaOf(base) + slot.gpa.value;
  std::unique_ptr<GuestMemory> memory(new GuestMemory(std::move(fd), underfoot::HvaOf(base), bytes,
                                                      backing, huge_pages, *std::move(slots)));
  if (hotplug_bytes != 0) {
    memory->hotplug_ = std::make_unique<HotplugBlocks>(hotplug, hotplug_bytes);
  }
  if (log_writes) {
    std::vector<GfnRange> gfns;
    for (const RamSlot& slot : memory->slots_) {
      gfns.push_back({GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)});
    }
    memory->log_ = std::make_unique<RamLog>(memory->hvas(), std::move(gfns));
  }
  // A hint: hugetlb memory and a kernel without transparent huge pages answer EINVAL.
  static_cast<void>(madvise(base, bytes, HugePageAdvice(huge_pages)));
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
                         HugePages huge_pages, std::vector<RamSlot> slots)
    : fd_(std::move(fd)),
      base_(base),
      bytes_(bytes),
      backing_(backing),
      huge_pages_(huge_pages),
      slots_(std::move(slots)) {}

absl::Status GuestMemory::RegisterAgain(HvaRange range, Backing backing, HugePages huge_pages,
                                        Userfaultfd& uffd) {
  // Before it is registered: a fork between the two would have an event, see ForkableMemory. Without
  // the advice the mapping would stay apart from its neighbours, and mremap over both would fail.
  for (const int advice : {HugePageAdvice(huge_pages), MADV_DONTFORK}) {
    static_cast<void>(syscall(SYS_madvise, range.begin.value, range.size(), advice));
  }
  return uffd.Register(range, backing);
}

// If the call fails, RAM stays as it is, which is as safe and takes more memory.
void GuestMemory::LeaveReserved() {
  gone_.store(true, kRelease);
  static_cast<void>(syscall(SYS_mmap, base_.value, bytes_, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0L));
}

GuestMemory::~GuestMemory() { static_cast<void>(munmap(PointerOf(base_), bytes_)); }

absl::Status GuestMemory::ChangeInKvm(const RamSlot& slot, Vm& vm, const KvmGate& gate,
                                      RamLog::KvmSlot afterwards,
                                      const std::function<absl::Status()>& change) {
  if (log_ == nullptr) return gate(change);
  return gate([&] {
    return log_->ChangeInKvm(
        slot.id, [&vm](uint32_t id, uint64_t pages) { return vm.TakeDirtyLog(id, pages); },
        afterwards, change);
  });
}

absl::Status GuestMemory::SetInKvm(const RamSlot& slot, Gpa gpa, Vm& vm, const KvmGate& gate) {
  return ChangeInKvm(slot, vm, gate, RamLog::KvmSlot::kThere, [&] {
    return vm.SetMemslot({.id = slot.id,
                          .gpa = gpa,
                          .bytes = slot.bytes,
                          .hva = slot.hva,
                          .log_dirty = log_ != nullptr});
  });
}

absl::Status GuestMemory::AddSlot(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  const Gfn gfn = GfnOf(slot.gpa);
  absl::Status ours = mmu.CreateMemslot({.id = slot.id,
                                         .gfns = {gfn, gfn + (slot.bytes >> kPageShift)},
                                         .hva = slot.hva,
                                         .flags = {.log_dirty = log_ != nullptr}});
  return ours.ok() ? SetInKvm(slot, slot.gpa, vm, gate) : ours;
}

absl::Status GuestMemory::RemoveSlot(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  absl::Status kvm = ChangeInKvm(slot, vm, gate, RamLog::KvmSlot::kAway,
                                 [&] { return vm.DeleteMemslot(slot.id); });
  if (!kvm.ok()) return kvm;
  return log_ == nullptr ? mmu.DeleteMemslot(slot.id) : log_->DeleteMemslot(slot.id, mmu);
}

absl::Status GuestMemory::MoveSlotAway(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  // Behind all RAM, and above the interrupt controllers and the pages of KVM's own below 4 GiB.
  constexpr uint64_t kAlignment = uint64_t{4} << 30;
  const Gpa gpa = slot.gpa + (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
  absl::Status kvm = SetInKvm(slot, gpa, vm, gate);
  return kvm.ok() ? mmu.MoveMemslot(slot.id, GfnOf(gpa)) : kvm;
}

absl::Status GuestMemory::MoveSlotBack(const RamSlot& slot, Mmu& mmu, Vm& vm, const KvmGate& gate) {
  if (absl::Status ours = mmu.MoveMemslot(slot.id, GfnOf(slot.gpa)); !ours.ok()) return ours;
  return SetInKvm(slot, slot.gpa, vm, gate);
}

std::vector<abi::DataRange> GuestMemory::DataRanges() const {
  std::vector<abi::DataRange> ranges;
  for (const RamSlot& slot : slots_) {
    if (slot.kind.has_value() && !slot.hotplug)
      ranges.push_back({slot.gpa.value, slot.bytes, *slot.kind, 0});
  }
  return ranges;
}

bool GuestMemory::IsPlugged(Gpa gpa, uint64_t bytes) const {
  if (gpa + bytes <= hotplug_->begin()) return true;
  const Gpa first = std::max(gpa, hotplug_->begin());
  return hotplug_->ArePlugged(first, gpa + bytes - first);
}

}  // namespace underfoot
