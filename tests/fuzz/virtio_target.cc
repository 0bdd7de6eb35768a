#include "tests/fuzz/virtio_target.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mem.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "vmm/base/monotonic.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/devices/virtio/balloon.h"
#include "vmm/devices/virtio/block.h"
#include "vmm/devices/virtio/console.h"
#include "vmm/devices/virtio/mem.h"
#include "vmm/devices/virtio/mmio_device.h"
#include "vmm/devices/virtio/rng.h"

namespace underfoot::testing {
namespace {

using virtio::Descriptor;

constexpr uint64_t kRamBytes = uint64_t{32} << 20;
constexpr uint64_t kHotplugBytes = 8 * kHotplugBlockBytes;
constexpr uint64_t kSectors = 512;
constexpr uint16_t kQueues = 2;
// Of the slot in which the rings of the driver are.
constexpr uint64_t kAreaPages = 16;
constexpr absl::Duration kPatience = absl::Seconds(30);

class MemoryDisk final : public virtio::Disk {
 public:
  uint64_t sectors() const override { return kSectors; }
  bool read_only() const override { return false; }
  int Read(uint64_t offset, std::span<std::byte> bytes) override {
    std::copy_n(At(offset, bytes.size()), bytes.size(), bytes.begin());
    return 0;
  }
  ssize_t ReadOnce(uint64_t offset, std::span<const iovec> guest) override {
    uint64_t done = 0;
    for (const iovec& part : guest) {
      std::copy_n(At(offset + done, part.iov_len), part.iov_len,
                  static_cast<std::byte*>(part.iov_base));
      done += part.iov_len;
    }
    return static_cast<ssize_t>(done);
  }
  int Write(uint64_t offset, std::span<const std::byte> bytes) override {
    std::copy(bytes.begin(), bytes.end(), At(offset, bytes.size()));
    return 0;
  }
  int Flush() override { return 0; }
  int Discard(uint64_t offset, uint64_t bytes) override { return WriteZeroes(offset, bytes, true); }
  int WriteZeroes(uint64_t offset, uint64_t bytes, bool) override {
    std::fill_n(At(offset, bytes), bytes, std::byte{0});
    return 0;
  }

 private:
  std::vector<std::byte>::iterator At(uint64_t offset, uint64_t bytes) {
    UNDERFOOT_CHECK(offset <= bytes_.size() && bytes <= bytes_.size() - offset,
                    "an access past the end of the disk", offset, bytes);
    return bytes_.begin() + static_cast<ptrdiff_t>(offset);
  }

  std::vector<std::byte> bytes_ = std::vector<std::byte>(kSectors * kSectorBytes);
};

// A device and its driver's side of the registers and rings.
class Machine {
 public:
  explicit Machine(std::unique_ptr<CoherentRam> ram)
      : ram_(std::move(ram)),
        parts_{ram_->mmu(), ram_->memory(), ram_->access()},
        block_(parts_,
               std::make_unique<virtio::Block>(std::make_unique<MemoryDisk>(), kQueues, "fuzz")),
        console_(parts_, MakeConsole()),
        balloon_(parts_, MakeBalloon()),
        mem_(parts_, MakeMem()),
        rng_(parts_, std::make_unique<virtio::Rng>()) {}

  absl::Status Start() {
    if (absl::Status started = ram_->Start(); !started.ok()) return started;
    for (const RamSlot& slot : ram_->memory().slots()) {
      if (absl::Status made = CreateSlot(slot); !made.ok()) return made;
    }
    if (absl::Status started = block_.Start(); !started.ok()) return started;
    if (absl::Status started = console_.Start(); !started.ok()) return started;
    if (absl::Status started = balloon_.Start(); !started.ok()) return started;
    if (absl::Status started = mem_.Start(); !started.ok()) return started;
    if (absl::Status set = mem_backend_->SetRequested(kHotplugBytes / 2); !set.ok()) return set;
    return rng_.Start();
  }

  // The device whose driver the input is.
  virtio::MmioDevice& target() { return *target_; }
  // By the first byte of the input: those of the others begin no step of an ordinary input for the disk.
  // Returns whether it is one of these.
  bool ChooseTarget(uint8_t first) {
    target_ = first == kConsole   ? &console_
              : first == kBalloon ? &balloon_
              : first == kMem     ? &mem_
                                  : &block_;
    return target_ != &block_;
  }
  bool drives_console() const { return target_ == &console_; }
  bool drives_balloon() const { return target_ == &balloon_; }
  bool drives_mem() const { return target_ == &mem_; }
  Gpa hotplug() const { return ram_->memory().hotplug()->begin(); }
  void Ask() {
    balloon_backend_->AskForStatistics();
    static_cast<void>(mem_backend_->SetRequested(kHotplugBytes / 2));
  }
  // Only a console takes it.
  void Type(std::string_view bytes) { static_cast<void>(console_backend_->Receive(bytes)); }
  virtio::MmioDevice& rng() { return rng_; }
  const RamSlot& area_slot() const { return ram_->memory().slots()[2]; }
  Gpa AreaAt(uint64_t page) const { return area_slot().gpa + page * kPageSize; }
  std::byte* At(Gpa gpa) const {
    return static_cast<std::byte*>(PointerOf(*ram_->memory().HvaOf(gpa)));
  }
  uint64_t ram_bytes() const { return ram_->memory().bytes(); }

  void TakeSlotAway() {
    if (std::exchange(away_, true)) return;
    UNDERFOOT_CHECK(ram_->mmu().DeleteMemslot(area_slot().id).ok(), "no memslot", 0, 0);
  }
  void BringSlotBack() {
    if (!std::exchange(away_, false)) return;
    UNDERFOOT_CHECK(CreateSlot(area_slot()).ok(), "the memslot does not come back", 0, 0);
  }
  void Bracket(uint64_t page) {
    const Hva hva = area_slot().hva + page * kPageSize;
    InvalidationScope bracket(ram_->mmu().notifier(), {PageRangeOf(hva)});
  }

 private:
  static constexpr uint8_t kConsole = 0xff;
  static constexpr uint8_t kMem = 0xfe;
  static constexpr uint8_t kBalloon = 0xfd;

  std::function<absl::Status(HvaRange)> MakeDiscard() {
    return [this](HvaRange pages) { return ram_->hooks().Discard(pages).status(); };
  }
  std::unique_ptr<virtio::Backend> MakeBalloon() {
    auto balloon = std::make_unique<virtio::Balloon>(ram_->memory(), MakeDiscard());
    balloon_backend_ = balloon.get();
    return balloon;
  }
  std::unique_ptr<virtio::Backend> MakeMem() {
    auto mem =
        std::make_unique<virtio::Mem>(ram_->memory(), ram_->mmu().direct_requests(), MakeDiscard());
    mem_backend_ = mem.get();
    return mem;
  }
  std::unique_ptr<virtio::Backend> MakeConsole() {
    auto console = std::make_unique<virtio::Console>([](std::string_view) {});
    console_backend_ = console.get();
    return console;
  }
  absl::Status CreateSlot(const RamSlot& slot) {
    return ram_->mmu().CreateMemslot(
        {.id = slot.id, .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)}, .hva = slot.hva});
  }

  std::unique_ptr<CoherentRam> ram_;
  const virtio::Virtqueue::Parts parts_;
  virtio::MmioDevice block_;
  virtio::Console* console_backend_ = nullptr;
  virtio::MmioDevice console_;
  virtio::Balloon* balloon_backend_ = nullptr;
  virtio::MmioDevice balloon_;
  virtio::Mem* mem_backend_ = nullptr;
  virtio::MmioDevice mem_;
  virtio::MmioDevice rng_;
  virtio::MmioDevice* target_ = &block_;
  bool away_ = false;
};

uint32_t Register(virtio::MmioDevice& device, uint64_t offset) {
  uint32_t value = 0;
  device.Read(offset, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}
void SetRegister(virtio::MmioDevice& device, uint64_t offset, uint32_t value) {
  device.Write(offset, std::as_bytes(std::span(&value, 1)));
}

template <class Condition>
void Await(const Condition& condition, const char* what) {
  const absl::Duration end = MonotonicNow() + kPatience;
  while (!condition()) {
    UNDERFOOT_CHECK(MonotonicNow() < end, what, 0, 0);
    absl::SleepFor(absl::Microseconds(20));
  }
}

void Reset(virtio::MmioDevice& device) {
  SetRegister(device, VIRTIO_MMIO_STATUS, 0);
  Await([&] { return Register(device, VIRTIO_MMIO_STATUS) == 0; }, "a reset does not end");
}

void Negotiate(virtio::MmioDevice& device, uint64_t features) {
  SetRegister(device, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  for (const uint32_t half : {0u, 1u}) {
    SetRegister(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
    SetRegister(device, VIRTIO_MMIO_DRIVER_FEATURES,
                static_cast<uint32_t>(features >> (32 * half)));
  }
  SetRegister(device, VIRTIO_MMIO_STATUS,
              VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

void Place(virtio::MmioDevice& device, uint32_t queue, const virtio::RingLayout& layout) {
  SetRegister(device, VIRTIO_MMIO_QUEUE_SEL, queue);
  SetRegister(device, VIRTIO_MMIO_QUEUE_NUM, layout.size);
  for (const auto& [offset, gpa] : {std::pair(VIRTIO_MMIO_QUEUE_DESC_LOW, layout.descriptors),
                                    std::pair(VIRTIO_MMIO_QUEUE_AVAIL_LOW, layout.available),
                                    std::pair(VIRTIO_MMIO_QUEUE_USED_LOW, layout.used)}) {
    SetRegister(device, static_cast<uint64_t>(offset), static_cast<uint32_t>(gpa.value));
    SetRegister(device, static_cast<uint64_t>(offset) + 4, static_cast<uint32_t>(gpa.value >> 32));
  }
  SetRegister(device, VIRTIO_MMIO_QUEUE_READY, 1);
}

void GoOn(virtio::MmioDevice& device) { SetRegister(device, VIRTIO_MMIO_STATUS, 0xf); }

// The bytes of the input, and zeroes after its end.
class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  bool empty() const { return bytes_.empty(); }
  template <class Value>
  Value Take() {
    std::array<uint8_t, sizeof(Value)> value{};
    const size_t here = std::min(bytes_.size(), value.size());
    std::copy_n(bytes_.begin(), here, value.begin());
    bytes_ = bytes_.subspan(here);
    return std::bit_cast<Value>(value);
  }

 private:
  std::span<const uint8_t> bytes_;
};

// The driver. It knows only the rings where an ordinary driver would put them; the device may have
// been given others.
class Driver {
 public:
  Driver(Machine& machine, Input& input) : machine_(machine), input_(input) {
    for (uint64_t page = 0; page < kAreaPages; ++page) {
      std::memset(machine_.At(machine_.AreaAt(page)), 0, kPageSize);
    }
  }

  // Until the device has taken what was offered, or has found a breach of the rules. It may have been
  // given other rings than those that are looked at here, so this ends after a moment in any case.
  void LetTheDeviceWork() {
    for (int looks = 0; looks < 50; ++looks) {
      if ((Register(machine_.target(), VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
        return;
      bool waits = false;
      const auto& workers = machine_.target().workers();
      for (size_t queue = 0; queue < kQueues && queue + upper_ < workers.size(); ++queue) {
        const virtio::QueueWorker& worker = *workers[queue + upper_];
        waits = waits || (!worker.quiet() && worker.queue().next_available() != offered_[queue]);
      }
      if (!waits) return;
      absl::SleepFor(absl::Microseconds(20));
    }
  }

  // One of these, with bytes of the input as its arguments.
  void Step() {
    virtio::MmioDevice& device = machine_.target();
    switch (input_.Take<uint8_t>() % 11) {
      case 0:
        return SetRegister(device, uint64_t{input_.Take<uint8_t>()} * 4 % 0x200,
                           input_.Take<uint32_t>());
      case 1:
        return SetRegister(device, uint64_t{input_.Take<uint8_t>()} * 4 % 0x200,
                           input_.Take<uint8_t>());
      case 2:
        return OddAccess();
      case 3:
        return SetUp();
      case 4:
      case 5:
        return SetSomeDescriptor();
      case 6:
        return Offer();
      case 7:
        return WriteRaw();
      case 8:
        return SetHeader();
      case 9:
        return machine_.Bracket(input_.Take<uint8_t>() % kAreaPages);
      case 10:
        if (input_.Take<uint8_t>() % 2 == 0) return machine_.TakeSlotAway();
        return machine_.BringSlotBack();
    }
  }

 private:
  static constexpr uint16_t kSize = 8;

  // The rings of queue q: three pages each. The others are for headers, tables and data.
  virtio::RingLayout LayoutOf(uint64_t queue) const {
    return {.size = kSize,
            .descriptors = machine_.AreaAt(3 * queue),
            .available = machine_.AreaAt(3 * queue + 1),
            .used = machine_.AreaAt(3 * queue + 2)};
  }

  void OddAccess() {
    const uint64_t offset = input_.Take<uint16_t>() % virtio::MmioDevice::kBytes;
    std::array<std::byte, 8> bytes{};
    const auto some = std::span(bytes).first(size_t{1} << input_.Take<uint8_t>() % 4);
    machine_.target().Read(offset, some);
    machine_.target().Write(offset, some);
  }

  void SetUp() {
    virtio::MmioDevice& device = machine_.target();
    const uint8_t how = input_.Take<uint8_t>();
    if ((how & 1) != 0) {
      LetTheDeviceWork();
      Reset(device);
    }
    upper_ = machine_.drives_balloon() && (how & 64) != 0 ? kQueues : 0;
    Negotiate(device, virtio::kVersion1 | device.backend().required_features() |
                          (machine_.drives_balloon() && (how & 128) != 0
                               ? uint64_t{1} << VIRTIO_BALLOON_F_STATS_VQ
                               : 0) |
                          ((how & 2) != 0 ? virtio::kEventIndex : 0) |
                          ((how & 4) != 0 ? virtio::kIndirectDescriptors : 0) |
                          ((how & 64) != 0 ? virtio::kInOrder : 0));
    virtio::RingLayout layout = LayoutOf(how >> 3 & 1);
    // The used ring over its own descriptors; a ring at the end of a memslot.
    if ((how & 16) != 0) layout.used = layout.descriptors;
    if ((how & 32) != 0)
      layout.available = machine_.area_slot().gpa + machine_.area_slot().bytes - 22;
    Place(device, (how >> 3 & 1) + upper_, layout);
    GoOn(device);
  }

  Gpa SomeGpa() {
    const uint8_t which = input_.Take<uint8_t>();
    const uint64_t offset = input_.Take<uint16_t>();
    switch (which % 8) {
      case 0:
        return {machine_.ram_bytes() - offset};
      case 1:
        return {~uint64_t{0} - offset};
      case 2:
        return machine_.area_slot().gpa + machine_.area_slot().bytes - offset % 64;
      case 3:
        return {input_.Take<uint64_t>()};
      case 4:
        return machine_.AreaAt(offset % 6);  // the rings
      default:
        return machine_.AreaAt(6 + offset % 10) + (which >> 4) * 16;
    }
  }
  uint32_t SomeLength() {
    const uint8_t which = input_.Take<uint8_t>();
    constexpr std::array<uint32_t, 8> kLengths = {0,    1,     16,         512,
                                                  4096, 20480, 0x7fffffff, 0xffffffff};
    return which < 128 ? kLengths[which % 8] : uint32_t{which} * 16;
  }

  void SetSomeDescriptor() {
    const uint8_t where = input_.Take<uint8_t>();
    Descriptor descriptor{};
    descriptor.gpa = SomeGpa().value;
    descriptor.bytes = SomeLength();
    descriptor.flags = input_.Take<uint8_t>() % 8;
    descriptor.next = input_.Take<uint8_t>();
    // In a ring, or in a table on one of the other pages.
    const Gpa table =
        machine_.AreaAt((where & 1) != 0 ? 6 + (where >> 1 & 7) : 3 * (where >> 1 & 1));
    std::memcpy(machine_.At(table) + (where >> 4) % kSize * sizeof(descriptor), &descriptor,
                sizeof(descriptor));
  }

  // The header of a request to a disk, or one to plug or unplug.
  void SetHeader() {
    if (machine_.drives_mem()) return SetMemRequest();
    struct {
      uint32_t type;
      uint32_t unused;
      uint64_t sector;
    } header{input_.Take<uint8_t>() % 16u, 0, input_.Take<uint16_t>() % (kSectors + 2)};
    const uint8_t where = input_.Take<uint8_t>();
    std::memcpy(machine_.At(machine_.AreaAt(6 + where % 10)) + (where >> 4) * 16, &header,
                sizeof(header));
  }

  void SetMemRequest() {
    virtio_mem_req request{};
    request.type = input_.Take<uint8_t>() % 5;
    const uint64_t block = input_.Take<uint16_t>();
    request.u.plug.addr =
        machine_.hotplug().value + block % 10 * kHotplugBlockBytes + block / 0x8000;
    request.u.plug.nb_blocks = static_cast<uint16_t>(block / 256 % 4);
    const uint8_t where = input_.Take<uint8_t>();
    std::memcpy(machine_.At(machine_.AreaAt(6 + where % 10)) + (where >> 4) * 16, &request,
                sizeof(request));
  }

  void Offer() {
    const uint8_t what = input_.Take<uint8_t>();
    const uint32_t queue = what & 1;
    const virtio::RingLayout layout = LayoutOf(queue);
    std::byte* const available = machine_.At(layout.available);
    virtio::WordAt<uint16_t>(available, layout.head_offset(offered_[queue]))
        .store(static_cast<uint16_t>(what >> 1 & 15), kRelaxed);
    offered_[queue] =
        static_cast<uint16_t>(offered_[queue] + 1 + ((what & 0xe0) == 0xe0 ? what : 0));
    virtio::WordAt<uint16_t>(available, virtio::kRingIndex).store(offered_[queue], kStoreLoad);
    SetRegister(machine_.target(), VIRTIO_MMIO_QUEUE_NOTIFY, queue + upper_);
  }

  void WriteRaw() {
    const uint64_t at = input_.Take<uint16_t>() % (kAreaPages * kPageSize - 8);
    const uint64_t value = input_.Take<uint64_t>();
    std::memcpy(machine_.At(machine_.AreaAt(0)) + at, &value, sizeof(value));
  }

  Machine& machine_;
  Input& input_;
  std::array<uint16_t, kQueues> offered_{};
  uint32_t upper_ = 0;  // the first queue of the two that are driven
};

// The device beside it works, whatever the driver of the other one does.
void ExpectThatTheOtherDeviceWorks(Machine& machine) {
  virtio::MmioDevice& device = machine.rng();
  const virtio::RingLayout layout{.size = 2,
                                  .descriptors = machine.AreaAt(kAreaPages),
                                  .available = machine.AreaAt(kAreaPages + 1),
                                  .used = machine.AreaAt(kAreaPages + 2)};
  for (uint64_t page = 0; page < 4; ++page) {
    std::memset(machine.At(machine.AreaAt(kAreaPages + page)), 0, kPageSize);
  }
  Reset(device);
  Negotiate(device, virtio::kVersion1);
  Place(device, 0, layout);
  GoOn(device);
  const Descriptor descriptor{machine.AreaAt(kAreaPages + 3).value, 64, Descriptor::kDeviceWrites,
                              0};
  std::memcpy(machine.At(layout.descriptors), &descriptor, sizeof(descriptor));
  virtio::WordAt<uint16_t>(machine.At(layout.available), virtio::kRingIndex).store(1, kStoreLoad);
  SetRegister(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  Await(
      [&] {
        return virtio::WordAt<uint16_t>(machine.At(layout.used), virtio::kRingIndex)
                   .load(kAcquire) == 1;
      },
      "the other device does not answer");
}

absl::StatusOr<Machine*> TheMachine() {
  // Never destroyed: the fuzzer ends by exit().
  static const absl::StatusOr<Machine*> machine = []() -> absl::StatusOr<Machine*> {
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram =
        CoherentRam::Create({.bytes = kRamBytes, .hotplug_bytes = kHotplugBytes});
    if (!ram.ok()) return ram.status();
    auto* const made = new Machine(*std::move(ram));
    if (absl::Status started = made->Start(); !started.ok()) return started;
    return made;
  }();
  return machine;
}

}  // namespace

absl::Status VirtioTargetReady() { return TheMachine().status(); }

VirtioTargetCounts RunVirtioTarget(std::span<const uint8_t> bytes) {
  constexpr int kMostSteps = 96;
  Machine& machine = **TheMachine();
  const auto counts = [&] {
    VirtioTargetCounts now{.needed_resets = machine.target().needed_resets()};
    for (const auto& worker : machine.target().workers())
      now.requests += worker->counters().requests.Get();
    return now;
  };
  const bool other = machine.ChooseTarget(bytes.empty() ? uint8_t{0} : bytes.front());
  const VirtioTargetCounts before = counts();
  Input input(other ? bytes.subspan(1) : bytes);
  Driver driver(machine, input);
  if (machine.drives_console()) machine.Type("typed at the console");
  machine.Ask();
  for (int i = 0; i < kMostSteps && !input.empty(); ++i) driver.Step();
  machine.BringSlotBack();
  driver.LetTheDeviceWork();
  Reset(machine.target());
  ExpectThatTheOtherDeviceWorks(machine);
  const VirtioTargetCounts after = counts();
  return {after.requests - before.requests, after.needed_resets - before.needed_resets};
}

}  // namespace underfoot::testing
