// Guest RAM: one host mapping, registered with userfaultfd, shown to KVM and to our memslots slot
// by slot.
//
//   gpa 0         16 MiB        end
//   | system      | data slots: shared page, precious, discardable ... |
//   slot 0, stays   each may be deleted and added again while the guest runs
//
// Thread safety: the layout is immutable. What changes a slot: one caller at a time for each slot.

#ifndef UNDERFOOT_VMM_MEMORY_GUEST_MEMORY_H_
#define UNDERFOOT_VMM_MEMORY_GUEST_MEMORY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guest/abi.h"
#include "mmu/mmu.h"
#include "mmu/types.h"
#include "vmm/backing.h"
#include "vmm/kvm.h"
#include "vmm/memory/userfaultfd.h"
#include "vmm/unique_fd.h"

namespace underfoot {

// A memslot's worth of RAM, whether its slot is there just now or not.
struct RamSlot {
  uint32_t id = 0;
  Gpa gpa;
  uint64_t bytes = 0;
  Hva hva;
  // nullopt: the system area.
  std::optional<abi::RangeKind> kind;

  HvaRange hvas() const { return {hva, hva + bytes}; }
  bool Contains(Gpa g) const { return gpa <= g && g < gpa + bytes; }
  bool discardable() const { return kind == abi::RangeKind::kDiscardable; }
};

// How RAM of `bytes` is cut: the system area, a shared page's slot, then precious and discardable
// halves in two slots each. InvalidArgument when it is too small.
absl::StatusOr<std::vector<RamSlot>> PlanRamSlots(uint64_t bytes);

// Runs a change of KVM's memslots, and says when: see Machine::WithVcpusOut.
using KvmGate = std::function<absl::Status(const std::function<absl::Status()>& change)>;

class GuestMemory {
 public:
  // Maps and registers RAM; no slot is added yet. Fails with what the host refused.
  static absl::StatusOr<std::unique_ptr<GuestMemory>> Create(uint64_t bytes, Backing backing,
                                                             Userfaultfd& uffd);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  // Ours first, then KVM's: what the guest can reach, we can translate.
  [[nodiscard]] absl::Status AddSlot(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                     const KvmGate& gate = AtOnce);
  // KVM's first; from then on the guest's accesses exit as MMIO.
  [[nodiscard]] absl::Status RemoveSlot(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                        const KvmGate& gate = AtOnce);

  // To a gpa past RAM and back: KVM_MR_MOVE of virt/kvm/kvm_main.c, the same memory at another gfn.
  // While it is elsewhere the guest's accesses exit as MMIO. In the orders of the two above.
  [[nodiscard]] absl::Status MoveSlotAway(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                          const KvmGate& gate = AtOnce);
  [[nodiscard]] absl::Status MoveSlotBack(const RamSlot& slot, Mmu& mmu, Vm& vm,
                                          const KvmGate& gate = AtOnce);

  const std::vector<RamSlot>& slots() const { return slots_; }
  const RamSlot* FindSlot(Gpa gpa) const;
  std::vector<abi::DataRange> DataRanges() const;
  // nullopt: not RAM.
  std::optional<Hva> HvaOf(Gpa gpa) const;

  uint64_t bytes() const { return bytes_; }
  HvaRange hvas() const { return {base_, base_ + bytes_}; }
  Backing backing() const { return backing_; }
  // The memfd; -1 for anonymous memory. File offset = gpa.
  int fd() const { return fd_.get(); }

 private:
  static absl::Status AtOnce(const std::function<absl::Status()>& change) { return change(); }

  GuestMemory(UniqueFd fd, Hva base, uint64_t bytes, Backing backing, std::vector<RamSlot> slots);

  UniqueFd fd_;
  Hva base_;
  uint64_t bytes_;
  Backing backing_;
  std::vector<RamSlot> slots_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_GUEST_MEMORY_H_
