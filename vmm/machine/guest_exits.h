// The exits of a guest answered: ports by the platform, the registers of virtio devices by their
// bus, memory that is away for a moment by the VMM's own translation, host memory faults by waiting
// for what caused them.
//
// Thread safety: each vCPU's calls come from its own thread.

#ifndef UNDERFOOT_VMM_MACHINE_GUEST_EXITS_H_
#define UNDERFOOT_VMM_MACHINE_GUEST_EXITS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/readers/reader.h"
#include "vmm/devices/port_devices.h"
#include "vmm/devices/virtio/mmio_bus.h"
#include "vmm/kvm/exits.h"
#include "vmm/ram/guest_access.h"
#include "vmm/sources/hooks/mm_hooks.h"

namespace underfoot {

class GuestExits final : public ExitHandler {
 public:
  // What an access to a gpa without RAM and without a device does.
  enum class Hole : uint8_t {
    kIsFatal,
    kReadsAsOnes,  // and ignores writes, as on a PC
  };

  GuestExits(unsigned vcpus, Mmu& mmu, GuestAccess& access, MmHooks& hooks, PortDevices& ports,
             virtio::MmioBus& devices, Hole hole);

  ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) override;
  absl::Status OnMmio(unsigned vcpu, Gpa gpa, std::span<std::byte> data, bool write) override;
  ExitOutcome OnHalt(unsigned vcpu) override;
  MemoryFaultOutcome OnMemoryFault(unsigned vcpu, const MemoryFault& fault) override;
  void OnFatal(unsigned vcpu, const absl::Status& error) override ABSL_LOCKS_EXCLUDED(mutex_);

  // The first fatal error of a vCPU.
  absl::Status fatal() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns when every vCPU has halted or failed, or the guest has switched the machine off; false
  // when `timeout` came first.
  bool WaitForAll(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);
  // As WaitForAll; also returns, with true, when RequestQuit was called.
  bool WaitForAllOrQuit(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_);
  void RequestQuit() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct PerVcpu {
    explicit PerVcpu(Mmu& mmu) : reader(mmu.readers()) {}
    Reader reader;
    uint32_t protection_epoch_seen = 0;
  };

  GuestAccess& access_;
  MmHooks& hooks_;
  PortDevices& ports_;
  virtio::MmioBus& devices_;
  const Hole hole_;
  std::vector<std::unique_ptr<PerVcpu>> vcpus_;
  bool AllEndedLocked() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return ended_ >= vcpus_.size() || !fatal_.ok();
  }

  // Guards: which vCPUs have ended, and why. Order: innermost.
  mutable absl::Mutex mutex_;
  absl::Status fatal_ ABSL_GUARDED_BY(mutex_);
  unsigned ended_ ABSL_GUARDED_BY(mutex_) = 0;
  bool quit_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_GUEST_EXITS_H_
