// The window of guest physical addresses in which the virtio devices have their registers. It lies
// above all RAM, in no memslot (abi::kMmioGpa), so each access is an exit; but a notification of a
// queue goes to the eventfd of its worker inside the kernel (KVM_IOEVENTFD).
//
// Device i has the registers at kMmioGpa + i * MmioDevice::kBytes. Where there is no device, the
// window reads as a device of id 0, which a driver ignores.
//
//   Add (each device) -> Start -> Stop
//
// Thread safety: Add, Start and Stop by the owner; Access by any vCPU thread between Start and the
// end; Info by any thread.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_BUS_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_BUS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mmu/base/types.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/mmio_device.h"
#include "vmm/kvm/kvm.h"
#include "vmm/stats/device_info.h"
#include "vmm/stats/stats.h"

namespace underfoot::virtio {

class MmioBus {
 public:
  explicit MmioBus(const Virtqueue::Parts& parts) : parts_(parts) {}

  void Add(std::unique_ptr<Backend> backend) {
    devices_.push_back(std::make_unique<MmioDevice>(parts_, std::move(backend)));
  }
  // Starts the workers, and has KVM pass the notifications on to them. With `first_gsi`, the
  // interrupts of device i are edges of the global system interrupt first_gsi + i (KVM_IRQFD); without
  // it the drivers poll.
  [[nodiscard]] absl::Status Start(Vm& vm, std::optional<uint32_t> first_gsi = {});
  // As MmioDevice::Stop, for all devices together. A queue is named with the file of its device.
  [[nodiscard]] std::vector<std::string> Stop(absl::Duration patience);

  static bool Claims(Gpa gpa);
  void Access(Gpa gpa, std::span<std::byte> data, bool write);

  size_t size() const { return devices_.size(); }
  std::vector<DeviceInfo> Info() const;
  // Sums over all devices.
  DevicesStats Stats() const;

 private:
  const Virtqueue::Parts parts_;
  std::vector<std::unique_ptr<MmioDevice>> devices_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_MMIO_BUS_H_
