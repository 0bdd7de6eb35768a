#include "vmm/devices/virtio/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <new>

#include "mmu/base/ordering.h"

namespace underfoot::virtio {
namespace {

constexpr unsigned kGenerationShift = 32;

}  // namespace

uint32_t Console::device_id() const { return VIRTIO_ID_CONSOLE; }

uint64_t Console::features() const { return FeatureBit(VIRTIO_CONSOLE_F_SIZE); }

size_t Console::Receive(std::string_view bytes) {
  size_t taken = 0;
  {
    absl::MutexLock lock(&mutex_);
    taken = std::min(bytes.size(), kMostWaiting - waiting_.size());
    waiting_.append(bytes.substr(0, taken));
  }
  if (taken != 0) WakeQueue(kReceive);
  return taken;
}

void Console::SetSize(uint16_t columns, uint16_t rows) {
  uint64_t before = size_.load(kRelaxed);
  uint64_t after = 0;
  do {
    after = ((before >> kGenerationShift) + 1) << kGenerationShift | uint64_t{columns} << 16 | rows;
    // Release: a driver that is interrupted for it reads it.
  } while (!size_.compare_exchange_weak(before, after, kRelease, kRelaxed));
  ConfigChanged();
}

void Console::ReadConfig(uint64_t offset, std::span<std::byte> data) const {
  const uint64_t size = size_.load(kAcquire);
  virtio_console_config config{};
  config.cols = static_cast<uint16_t>(size >> 16);
  config.rows = static_cast<uint16_t>(size);
  CopyConfig(std::as_bytes(std::span(&config, 1)), offset, data);
}

uint32_t Console::config_generation() const {
  return static_cast<uint32_t>(size_.load(kAcquire) >> kGenerationShift);
}

// Section 5.3.6.2: a buffer of a queue has one direction.
Served Console::Serve(Request& request) {
  if (request.queue() == kReceive) {
    if (request.readable_bytes() != 0 || request.writable_bytes() == 0) return {.answered = false};
    return GiveInput(request);
  }
  if (request.writable_bytes() != 0) return {.answered = false};
  return TakeOutput(request);
}

// Input leaves the string when the guest has it.
Served Console::GiveInput(Request& request) {
  std::array<char, kMostWaiting> bytes;
  size_t count = 0;
  {
    absl::MutexLock lock(&mutex_);
    count = std::min<uint64_t>(waiting_.size(), request.writable_bytes());
    std::copy_n(waiting_.begin(), count, bytes.begin());
  }
  if (count == 0) return {.later = true};
  if (!request.Write(0, std::as_bytes(std::span(bytes).first(count)))) {
    request.counters().errors.Add();
    return {};
  }
  absl::MutexLock lock(&mutex_);
  waiting_.erase(0, count);
  request.counters().to_guest_bytes.Add(count);
  return {.written = static_cast<uint32_t>(count)};
}

Served Console::TakeOutput(Request& request) {
  std::array<char, kPieceBytes> bytes;
  for (uint64_t done = 0; done < request.readable_bytes() && !request.abandoned();) {
    const size_t here = std::min<uint64_t>(request.readable_bytes() - done, bytes.size());
    bool read = false;
    try {
      read = request.Read(done, std::as_writable_bytes(std::span(bytes).first(here)));
    } catch (const std::bad_alloc&) {
      if (done == 0) throw;  // what was shown must not be shown again
    }
    if (!read) {
      request.counters().errors.Add();
      break;
    }
    output_({bytes.data(), here});
    request.counters().from_guest_bytes.Add(here);
    done += here;
  }
  return {};
}

}  // namespace underfoot::virtio
