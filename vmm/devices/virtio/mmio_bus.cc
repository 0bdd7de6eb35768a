#include "vmm/devices/virtio/mmio_bus.h"

#include <linux/virtio_mmio.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guest/abi.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/monotonic.h"

namespace underfoot::virtio {
namespace {

static_assert(abi::kMmioDeviceBytes == MmioDevice::kBytes);

DeviceQueueInfo InfoOf(const QueueWorker& worker) {
  const QueueCounters& counters = worker.counters();
  return {.name = worker.name(),
          .active = !worker.quiet(),
          .next_available = worker.queue().next_available(),
          .next_used = worker.queue().next_used(),
          .requests = counters.requests.Get(),
          .errors = counters.errors.Get(),
          .to_guest_bytes = counters.to_guest_bytes.Get(),
          .from_guest_bytes = counters.from_guest_bytes.Get(),
          .bounced = counters.bounced.Get(),
          .direct = counters.direct.Get(),
          .direct_again = counters.direct_again.Get(),
          .file_errors = counters.file_errors.Get(),
          .kicks = counters.kicks.Get(),
          .interrupts = counters.interrupts.Get(),
          .refreshes = worker.queue().refreshes(),
          .refreshes_in_request = worker.queue().refreshes_in_request(),
          .away = counters.away.Get(),
          .shortages = counters.shortages.Get()};
}

}  // namespace

absl::Status MmioBus::Start(Vm& vm, std::optional<uint32_t> first_gsi) {
  for (size_t i = 0; i < devices_.size(); ++i) {
    // Before the workers run, which raise interrupts.
    if (first_gsi.has_value()) {
      UniqueFd interrupt(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
      if (!interrupt.valid()) return ErrnoStatus(errno, "eventfd of an interrupt");
      const uint32_t gsi = *first_gsi + static_cast<uint32_t>(i);
      if (absl::Status added = vm.AddIrqfd(interrupt.get(), gsi); !added.ok()) return added;
      devices_[i]->SetInterruptFd(std::move(interrupt));
    }
    if (absl::Status started = devices_[i]->Start(); !started.ok()) return started;
    const Gpa notify = Gpa{abi::kMmioGpa} + i * MmioDevice::kBytes + VIRTIO_MMIO_QUEUE_NOTIFY;
    for (size_t queue = 0; queue < devices_[i]->workers().size(); ++queue) {
      absl::Status added = vm.AddIoeventfd(notify, static_cast<uint32_t>(queue),
                                           devices_[i]->workers()[queue]->kick_fd());
      if (!added.ok()) return added;
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> MmioBus::Stop(absl::Duration patience) {
  for (const auto& device : devices_) device->RequestStop();
  const absl::Duration end = MonotonicNow() + patience;
  std::vector<std::string> running;
  for (const auto& device : devices_) {
    const absl::Duration left = std::max(end - MonotonicNow(), absl::ZeroDuration());
    const std::string file = device->backend().file();
    for (const std::string& queue : device->Stop(left)) {
      running.push_back(file.empty() ? queue : absl::StrCat(queue, " (", file, ")"));
    }
  }
  return running;
}

bool MmioBus::Claims(Gpa gpa) {
  return gpa.value >= abi::kMmioGpa && gpa.value - abi::kMmioGpa < abi::kMmioBytes;
}

void MmioBus::Access(Gpa gpa, std::span<std::byte> data, bool write) {
  const uint64_t offset = gpa.value - abi::kMmioGpa;
  const uint64_t index = offset / MmioDevice::kBytes;
  const uint64_t reg = offset % MmioDevice::kBytes;
  if (index < devices_.size()) {
    if (write) {
      devices_[index]->Write(reg, data);
    } else {
      devices_[index]->Read(reg, data);
    }
  } else if (!write) {
    // Section 4.2.2: a device of id 0.
    std::fill(data.begin(), data.end(), std::byte{0});
    const uint32_t value = reg == VIRTIO_MMIO_MAGIC_VALUE ? MmioDevice::kMagic
                           : reg == VIRTIO_MMIO_VERSION   ? MmioDevice::kVersion
                                                          : 0;
    if (data.size() == sizeof(value)) std::memcpy(data.data(), &value, sizeof(value));
  }
}

std::vector<DeviceInfo> MmioBus::Info() const {
  std::vector<DeviceInfo> infos;
  for (size_t i = 0; i < devices_.size(); ++i) {
    const MmioDevice& device = *devices_[i];
    DeviceInfo info{.name = device.backend().name(),
                    .id = device.backend().device_id(),
                    .gpa = Gpa{abi::kMmioGpa} + i * MmioDevice::kBytes,
                    .status = device.status(),
                    .resets = device.resets(),
                    .needed_resets = device.needed_resets(),
                    .first_error = device.backend().first_error(),
                    .queues = {}};
    for (const auto& worker : device.workers()) info.queues.push_back(InfoOf(*worker));
    infos.push_back(std::move(info));
  }
  return infos;
}

DevicesStats MmioBus::Stats() const {
  DevicesStats stats;
  for (const DeviceInfo& device : Info()) {
    ++stats.count;
    stats.needed_resets += device.needed_resets;
    for (const DeviceQueueInfo& queue : device.queues) {
      stats.queues += queue.active ? 1 : 0;
      stats.requests += queue.requests;
      stats.errors += queue.errors;
      stats.to_guest_bytes += queue.to_guest_bytes;
      stats.from_guest_bytes += queue.from_guest_bytes;
      stats.bounced += queue.bounced;
      stats.direct += queue.direct;
      stats.direct_again += queue.direct_again;
      stats.file_errors += queue.file_errors;
      stats.kicks += queue.kicks;
      stats.interrupts += queue.interrupts;
      stats.refreshes += queue.refreshes;
      stats.refreshes_in_request += queue.refreshes_in_request;
      stats.away += queue.away;
      stats.shortages += queue.shortages;
    }
  }
  return stats;
}

}  // namespace underfoot::virtio
