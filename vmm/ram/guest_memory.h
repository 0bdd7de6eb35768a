// Guest RAM: one host mapping, registered with userfaultfd, shown to KVM and to our memslots slot
// by slot.
//
//   gpa 0         16 MiB        end
//   | system      | data slots: shared page, precious, discardable ... |
//   slot 0, stays   each may be deleted and added again while the guest runs
//
// The RAM of a Linux guest is cut into precious slots only, from gpa 0 on. Behind it may be a hot-plug
// region, with a slot of its own: the same mapping, of which the guest may use the blocks that are plugged
// (hotplug_blocks.h).
//
// Thread safety: the layout is immutable. What changes a slot: one caller at a time for each slot.
// LeaveReserved: once, by the owner.

#ifndef UNDERFOOT_VMM_RAM_GUEST_MEMORY_H_
#define UNDERFOOT_VMM_RAM_GUEST_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guest/abi.h"
#include "mmu/base/ordering.h"
#include "mmu/base/types.h"
#include "mmu/mmu.h"
#include "vmm/base/backing.h"
#include "vmm/base/unique_fd.h"
#include "vmm/kvm/kvm.h"
#include "vmm/ram/hotplug_blocks.h"
#include "vmm/ram/ram_log.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {

// A memslot's worth of RAM, whether its slot is there just now or not.
struct RamSlot {
  uint32_t id = 0;
  Gpa gpa;
  uint64_t bytes = 0;
  Hva hva;
  // nullopt: the system area.
  std::optional<abi::RangeKind> kind;
  bool hotplug = false;  // the hot-plug region

  HvaRange hvas() const { return {hva, hva + bytes}; }
  bool discardable() const { return kind == abi::RangeKind::kDiscardable; }
};

// Who uses the RAM.
enum class RamUse : uint8_t { kTestGuest, kLinux };

// How RAM of `bytes` is cut for the test guest: the system area, a shared page's slot, then precious and discardable
// halves in two slots each. With huge pages the slots are cut at multiples of SlotGranule; only the
// system area, the shared page and the first precious slot may share a page of 1 GiB.
// For Linux: the lowest 2 MiB, and the rest in four parts, all at multiples of 2 MiB, so that no ring
// of a driver lies in two slots (its pages are one naturally aligned block of Linux's allocator).
// InvalidArgument when it is too small, or no whole number of pages.
absl::StatusOr<std::vector<RamSlot>> PlanRamSlots(uint64_t bytes,
                                                  HugePages huge_pages = HugePages::kOff,
                                                  RamUse use = RamUse::kTestGuest);

// Runs a change of KVM's memslots, and says when: see Machine::WithVcpusOut.
using KvmGate = std::function<absl::Status(const std::function<absl::Status()>& change)>;

class GuestMemory {
 public:
  // Maps and registers RAM; no slot is added yet. Fails with what the host refused. `log_writes`:
  // each slot gets a dirty log, in KVM and in our set. Of `bytes` and `hotplug_bytes`, which follow them,
  // both are whole blocks of the hot-plug region if the latter is not 0.
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(
      uint64_t bytes, Backing backing, HugePages huge_pages, Userfaultfd& uffd,
      bool log_writes = false, RamUse use = RamUse::kTestGuest, uint64_t hotplug_bytes = 0);
  // Registers memory that has been mapped in the place of RAM, and gives it the same advice as RAM.
  // It uses raw system calls and no hooked ones, because it is called inside hooked calls and by
  // the thread that reads userfaultfd. The error is that of the registration: not every kind of
  // memory can be registered.
  static absl::Status RegisterAgain(HvaRange range, Backing backing, HugePages huge_pages,
                                    Userfaultfd& uffd);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // The gate of a caller that has no vCPU inside.
  static absl::Status AtOnce(const std::function<absl::Status()>& change) { return change(); }

  // Adds the slot to our memslots first and to KVM's second, so that we can translate every page
  // that the guest can reach.
  [[nodiscard]] absl::Status AddSlot(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                     const KvmGate& gate = AtOnce);
  // KVM's first; from then on the guest's accesses exit as MMIO.
  [[nodiscard]] absl::Status RemoveSlot(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                        const KvmGate& gate = AtOnce);

  // Move the slot to a gpa behind RAM, and back: the same memory at another gfn (KVM_MR_MOVE in
  // virt/kvm/kvm_main.c). While the slot is away, the guest's accesses exit as MMIO. MoveSlotAway
  // changes KVM's memslots first, as RemoveSlot does; MoveSlotBack changes ours first, as AddSlot
  // does.
  [[nodiscard]] absl::Status MoveSlotAway(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                          const KvmGate& gate = AtOnce);
  [[nodiscard]] absl::Status MoveSlotBack(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                          const KvmGate& gate = AtOnce);

  // The union of the dirty logs; nullptr: writes are not logged.
  RamLog* log() const { return log_.get(); }

  const std::vector<RamSlot>& slots() const { return slots_; }
  std::vector<abi::DataRange> DataRanges() const;
  // nullopt: not RAM, or RAM has gone. The hot-plug region has addresses, whether it is plugged or not.
  std::optional<Hva> HvaOf(Gpa gpa) const {
    if (gpa.value >= bytes_ || gone()) return std::nullopt;
    return base_ + gpa.value;
  }
  // Whether all of it is RAM that the guest may use now. A block that is plugged may be unplugged at any
  // time: hotplug_blocks.h has the order in which an access looks.
  bool IsRam(Gpa gpa, uint64_t bytes) const {
    if (gpa.value >= bytes_ || bytes > bytes_ - gpa.value) return false;
    return hotplug_ == nullptr || IsPlugged(gpa, bytes);
  }
  // The hot-plug region; nullptr: there is none.
  HotplugBlocks* hotplug() const { return hotplug_.get(); }

  // Replaces RAM by a reservation of its addresses, in one step. The caller has put all of it in
  // flight, and keeps it so during this call: an access that follows finds no RAM.
  void LeaveReserved();
  bool gone() const { return gone_.load(kAcquire); }

  // With the hot-plug region.
  uint64_t bytes() const { return bytes_; }
  // What the guest may use now.
  uint64_t usable_bytes() const {
    return hotplug_ == nullptr ? bytes_ : bytes_ - hotplug_->bytes() + hotplug_->plugged_bytes();
  }
  HvaRange hvas() const { return {base_, base_ + bytes_}; }
  Backing backing() const { return backing_; }
  HugePages huge_pages() const { return huge_pages_; }
  // The memfd; -1 for anonymous memory. File offset = gpa.
  int fd() const { return fd_.get(); }

 private:
  GuestMemory(UniqueFd fd, Hva base, uint64_t bytes, Backing backing, HugePages huge_pages,
              std::vector<RamSlot> slots);
  // Of a range in RAM: whether what lies in the hot-plug region is plugged.
  bool IsPlugged(Gpa gpa, uint64_t bytes) const;
  // Adds the slot to KVM at `gpa`, or moves it there.
  absl::Status SetInKvm(const RamSlot& slot, Gpa gpa, Vm& vm, const KvmGate& gate);
  // Runs `change` through the gate, with the log of the slot taken first.
  absl::Status ChangeInKvm(const RamSlot& slot, Vm& vm, const KvmGate& gate,
                           RamLog::KvmSlot afterwards, const std::function<absl::Status()>& change);

  UniqueFd fd_;
  Hva base_;
  uint64_t bytes_;
  Backing backing_;
  HugePages huge_pages_;
  std::vector<RamSlot> slots_;
  std::unique_ptr<HotplugBlocks> hotplug_;
  std::unique_ptr<RamLog> log_;
  // Set inside the bracket that takes RAM away. Pairs with: gone, read by an access that has found no
  // bracket. Without it: the access touches the reservation.
  std::atomic<bool> gone_{false};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_GUEST_MEMORY_H_
