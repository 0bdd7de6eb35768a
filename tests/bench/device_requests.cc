// Requests to the virtio block device. The driver and the device take turns on one thread, so no
// wake-up is measured: what remains is the work of a worker that polls, with 32 requests in flight.

#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "mmu/base/check.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"
#include "tests/bench/stopwatch.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/devices/virtio/block.h"
#include "vmm/devices/virtio/request_batch.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot::bench {
namespace {

using virtio::Descriptor;
using virtio::Disk;

constexpr uint64_t kRamBytes = uint64_t{32} << 20;
constexpr uint64_t kDiskBytes = uint64_t{4} << 20;
constexpr uint16_t kInFlight = 32;
constexpr uint16_t kRingSize = 128;
constexpr uint64_t kPasses = 8;  // in a turn
constexpr uint64_t kDescriptorsOfRequest = 3;

// A memory of the same size as a disk, so that no system call hides what the rings cost.
class MemoryDisk final : public Disk {
 public:
  uint64_t sectors() const override { return kDiskBytes / kSectorBytes; }
  bool read_only() const override { return false; }
  int Read(uint64_t offset, std::span<std::byte> bytes) override {
    std::memcpy(bytes.data(), &bytes_[offset], bytes.size());
    return 0;
  }
  bool TryRead(uint64_t offset, std::span<std::byte> bytes) override {
    return Read(offset, bytes) == 0;
  }
  ssize_t ReadOnce(uint64_t, std::span<const iovec>) override { return -1; }
  int Write(uint64_t offset, std::span<const std::byte> bytes) override {
    std::memcpy(&bytes_[offset], bytes.data(), bytes.size());
    return 0;
  }
  int Flush() override { return 0; }
  int Discard(uint64_t, uint64_t) override { return 0; }
  int WriteZeroes(uint64_t, uint64_t, bool) override { return 0; }

  const std::byte* At(uint64_t offset) const { return &bytes_[offset]; }

 private:
  std::vector<std::byte> bytes_ = std::vector<std::byte>(kDiskBytes);
};

// Guest memory with a ring, 32 requests of one kind and size in it, and both sides of it.
class Scene {
 public:
  Scene(std::unique_ptr<CoherentRam> ram, std::unique_ptr<Disk> disk, uint32_t type, uint64_t bytes)
      : ram_(std::move(ram)),
        type_(type),
        bytes_(bytes),
        block_(std::move(disk), 1, "bench"),
        parts_{ram_->mmu(), ram_->memory(), ram_->access()},
        queue_(parts_, "bench"),
        direct_(ram_->mmu().direct_requests(), ram_->mmu().in_flight(), ram_->mmu().memslots()),
        reader_(ram_->mmu().readers()),
        batch_({.machine = parts_,
                .queue = queue_,
                .backend = block_,
                .direct = direct_,
                .counters = counters_,
                .let_go = let_go_,
                .number = 0,
                .interrupt = [] {}}) {
    for (const RamSlot& slot : ram_->memory().slots()) {
      const absl::Status made =
          ram_->mmu().CreateMemslot({.id = slot.id,
                                     .gfns = {GfnOf(slot.gpa), GfnOf(slot.gpa + slot.bytes)},
                                     .hva = slot.hva});
      UNDERFOOT_CHECK(made.ok(), "a benchmark has no memslot", slot.id, 0);
    }
    Place();
    queue_.Start(layout_, virtio::kVersion1);
  }
  ~Scene() { queue_.Stop(); }

  std::byte* Payload(uint64_t request) const { return At(payload_ + request * bytes_); }
  uint64_t OffsetInDisk(uint64_t request) const { return request * bytes_ % kDiskBytes; }

  // The driver makes all requests available.
  void Offer() {
    for (uint16_t i = 0; i < kInFlight; ++i) {
      virtio::WordAt<uint16_t>(At(layout_.available), layout_.head_offset(offered_++))
          .store(static_cast<uint16_t>(i * kDescriptorsOfRequest), kRelaxed);
    }
    virtio::WordAt<uint16_t>(At(layout_.available), virtio::kRingIndex).store(offered_, kRelease);
  }

  // As QueueWorker does it.
  void ServeOurs() {
    while (queue_.next_used() != offered_) {
      const virtio::QueueOutcome outcome =
          batch_.empty() ? batch_.Take(reader_) : batch_.Step(reader_);
      UNDERFOOT_CHECK(outcome == virtio::QueueOutcome::kDone, "a request is not served",
                      queue_.next_used(), offered_);
    }
    UNDERFOOT_CHECK(counters_.errors.Get() == 0, "a request has failed", counters_.errors.Get(), 0);
  }

  // The same steps by pointers that are never checked. `transfer` moves the payload.
  template <class Transfer>
  void ServeRaw(const Transfer& transfer) {
    std::byte* const available = At(layout_.available);
    std::byte* const used = At(layout_.used);
    for (uint16_t n = 0; n < kInFlight; ++n) {
      const auto index = virtio::WordAt<uint16_t>(available, virtio::kRingIndex).load(kAcquire);
      UNDERFOOT_CHECK(index != raw_next_, "no request", n, 0);
      const auto head =
          virtio::WordAt<uint16_t>(available, layout_.head_offset(raw_next_++)).load(kRelaxed);
      std::array<Descriptor, kDescriptorsOfRequest> chain;
      std::memcpy(chain.data(), At(layout_.descriptors) + head * sizeof(Descriptor), sizeof(chain));
      virtio_blk_outhdr header;
      std::memcpy(&header, At({chain[0].gpa}), sizeof(header));
      transfer(header.sector * Disk::kSectorBytes, At({chain[1].gpa}), chain[1].bytes);
      *At({chain[2].gpa}) = std::byte{VIRTIO_BLK_S_OK};
      const virtio::UsedElement element{head, chain[1].bytes + 1};
      std::memcpy(used + layout_.element_offset(raw_used_++), &element, sizeof(element));
      virtio::WordAt<uint16_t>(used, virtio::kRingIndex).exchange(raw_used_, kStoreLoad);
      KeepAlive(virtio::WordAt<uint16_t>(available, virtio::kRingFlags).load(kStoreLoad));
    }
  }
  // A bracket over the payload of a request; how long its Begin took.
  double BeginNs(uint64_t request) {
    const HvaRange page = PageRangeOf(HvaOf(Payload(request)));
    const Stopwatch watch;
    BracketToken token = ram_->mmu().notifier().Begin({page, InvalidationKind::kUnmap});
    const double ns = watch.ElapsedNs();
    ram_->mmu().notifier().End(token);
    return ns;
  }
  // Both sides begin with an empty ring. Only one of them serves in a turn.
  void Restart() {
    queue_.Start(layout_, virtio::kVersion1);
    for (const Gpa area : {layout_.available, layout_.used}) {
      virtio::WordAt<uint16_t>(At(area), virtio::kRingIndex).store(0, kRelease);
    }
    offered_ = raw_next_ = raw_used_ = 0;
  }

 private:
  std::byte* At(Gpa gpa) const {
    return static_cast<std::byte*>(PointerOf(ram_->memory().hvas().begin + gpa.value));
  }

  void Place() {
    const Gpa first = ram_->memory().slots()[2].gpa;
    layout_ = {.size = kRingSize,
               .descriptors = first,
               .available = first + kPageSize,
               .used = first + 2 * kPageSize};
    const Gpa headers = first + 3 * kPageSize;
    payload_ = first + 4 * kPageSize;
    std::memset(At(first), 0, 4 * kPageSize);
    std::memset(At(payload_), 1, kInFlight * bytes_);
    const bool reads = type_ == VIRTIO_BLK_T_IN;
    for (uint16_t i = 0; i < kInFlight; ++i) {
      virtio_blk_outhdr header{};
      header.type = type_;
      header.sector = OffsetInDisk(i) / Disk::kSectorBytes;
      std::memcpy(At(headers + i * 64), &header, sizeof(header));
      const auto at = static_cast<uint16_t>(i * kDescriptorsOfRequest);
      const std::array<Descriptor, kDescriptorsOfRequest> chain = {{
          {(headers + i * 64).value, sizeof(header), Descriptor::kNext,
           static_cast<uint16_t>(at + 1)},
          {(payload_ + i * bytes_).value, static_cast<uint32_t>(bytes_),
           static_cast<uint16_t>(Descriptor::kNext | (reads ? Descriptor::kDeviceWrites : 0)),
           static_cast<uint16_t>(at + 2)},
          {(headers + i * 64 + 32).value, 1, Descriptor::kDeviceWrites, 0},
      }};
      std::memcpy(At(layout_.descriptors) + at * sizeof(Descriptor), chain.data(), sizeof(chain));
    }
  }

  const std::unique_ptr<CoherentRam> ram_;
  const uint32_t type_;
  const uint64_t bytes_;
  virtio::Block block_;
  const virtio::Virtqueue::Parts parts_;
  virtio::Virtqueue queue_;
  DirectRequest direct_;
  Reader reader_;
  virtio::QueueCounters counters_;
  const std::atomic<bool> let_go_{false};
  virtio::RequestBatch batch_;
  virtio::RingLayout layout_;
  Gpa payload_;
  uint16_t offered_ = 0;
  uint16_t raw_next_ = 0;
  uint16_t raw_used_ = 0;
};

absl::StatusOr<std::unique_ptr<CoherentRam>> MakeRam() {
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = CoherentRam::Create({.bytes = kRamBytes});
  if (!ram.ok()) return ram;
  if (absl::Status started = (*ram)->Start(); !started.ok()) return started;
  return ram;
}

Variant Serving(std::string name, const std::shared_ptr<Scene>& scene,
                std::function<void(Scene&)> serve, std::optional<Goal> goal,
                uint64_t passes_before = 1) {
  return {.name = std::move(name),
          .run =
              [scene, serve = std::move(serve), passes_before](Turn& turn) {
                scene->Restart();
                // The first activation of the caches, the first faults.
                for (uint64_t i = 0; i < passes_before; ++i) serve(*scene);
                turn.Time(kPasses * kInFlight, [&] {
                  for (uint64_t i = 0; i < kPasses; ++i) serve(*scene);
                });
              },
          .goal = goal};
}

std::optional<Goal> RatioAtMost(double ratio) { return Goal{Goal::Of::kRatio, ratio}; }

void ComparePolling(Bench& bench) {
  constexpr char kName[] = "device.polling.4_KiB";
  if (!bench.Wants(kName)) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  auto disk = std::make_unique<MemoryDisk>();
  const MemoryDisk* const memory = disk.get();
  const auto scene = std::make_shared<Scene>(*std::move(ram), std::move(disk),
                                             uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  const auto raw = [memory](Scene& here) {
    here.Offer();
    here.ServeRaw([memory](uint64_t offset, std::byte* guest, uint64_t bytes) {
      std::memcpy(guest, memory->At(offset), bytes);
    });
  };
  // As a file is read: its bytes cannot go straight to guest memory without a system call.
  auto buffer = std::make_shared<std::vector<std::byte>>(kInFlight / 2 * kPageSize);
  const auto by_buffer = [memory, buffer](Scene& here) {
    here.Offer();
    uint64_t at = 0;
    here.ServeRaw([&](uint64_t offset, std::byte* guest, uint64_t bytes) {
      std::byte* const own = &(*buffer)[at++ % (kInFlight / 2) * kPageSize];
      std::memcpy(own, memory->At(offset), bytes);
      std::memcpy(guest, own, bytes);
    });
  };
  const auto ours = [](Scene& here) {
    here.Offer();
    here.ServeOurs();
  };
  // After about two windows of sections at which no Begin has looked, the worker's reader is biased.
  const uint64_t quiet = bench.Operations(ReaderBias::kWindow / 8);
  bench.Compare({.name = kName,
                 .what = "a read of 4 KiB from a disk in memory, 32 in flight, polled",
                 .variants = {Serving("raw pointers, by a buffer", scene, by_buffer, {}),
                              Serving("raw pointers, one copy", scene, raw, {}),
                              Serving("ours", scene, ours, RatioAtMost(1.1)),
                              Serving("ours, no invalidation for a while", scene, ours,
                                      RatioAtMost(1.1), quiet)}});
}

// What the host waits for when it takes a page that requests go to.
void CompareInvalidation(Bench& bench) {
  constexpr char kName[] = "device.invalidation";
  constexpr uint64_t kInvalidations = 400;
  if (!bench.Wants(kName)) return;
  if (AllowedCpus().size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(AllowedCpus().front());
  Partner partner(AllowedCpus().back());
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  const auto scene = std::make_shared<Scene>(*std::move(ram), std::make_unique<MemoryDisk>(),
                                             uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  const auto serve = [scene] {
    scene->Offer();
    scene->ServeOurs();
  };
  const auto invalidate = [scene](Turn& turn, uint64_t i) {
    turn.Record(scene->BeginNs(i * 7 % kInFlight));
  };
  const uint64_t times = bench.Operations(kInvalidations);
  bench.Compare({.name = kName,
                 .what = "Begin on a page that requests of 4 KiB go to, 32 in flight, polled",
                 .variants = {{.name = "the worker does nothing",
                               .run =
                                   [=](Turn& turn) {
                                     scene->Restart();
                                     for (uint64_t i = 0; i < times; ++i) {
                                       if (i % kInFlight == 0) serve();
                                       invalidate(turn, i);
                                     }
                                   },
                               .goal = {}},
                              {.name = "the worker is busy",
                               .run =
                                   [=, &partner](Turn& turn) {
                                     scene->Restart();
                                     const Partner::Work work(partner, serve);
                                     for (uint64_t i = 0; i < times; ++i) {
                                       work.WaitForSteps(2);
                                       invalidate(turn, i);
                                     }
                                   },
                               .goal = Goal{.of = Goal::Of::kP99Ns, .at_most = 5000}}}});
}

// `call` is preadv or pwritev of one part.
template <class Call>
void CompareFile(Bench& bench, const char* name, const char* what, uint32_t type, double at_most,
                 const Call& call) {
  constexpr uint64_t kBytes = uint64_t{64} << 10;
  if (!bench.Wants(name)) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(name, std::string(ram.status().message()));
  absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk = virtio::RawDisk::Temporary(kDiskBytes);
  if (!disk.ok()) return bench.Skip(name, std::string(disk.status().message()));
  // A cached file: each page is there.
  const std::vector<std::byte> content(kDiskBytes, std::byte{7});
  UNDERFOOT_CHECK((*disk)->Write(0, content) == 0, "a temporary disk cannot be written", 0, 0);
  const int fd = (*disk)->fd();
  const auto scene = std::make_shared<Scene>(*std::move(ram), *std::move(disk), type, kBytes);
  const auto raw = [fd, call](Scene& here) {
    for (uint64_t i = 0; i < kInFlight; ++i) {
      const iovec part{here.Payload(i), kBytes};
      const ssize_t moved = call(fd, &part, static_cast<off_t>(here.OffsetInDisk(i)));
      UNDERFOOT_CHECK(moved == ssize_t{kBytes}, "a transfer is short", moved, 0);
    }
  };
  const auto ours = [](Scene& here) {
    here.Offer();
    here.ServeOurs();
  };
  bench.Compare({.name = name,
                 .what = what,
                 .variants = {Serving("a loop of the system call, same memory", scene, raw, {}),
                              Serving("ours", scene, ours, RatioAtMost(at_most))}});
}

}  // namespace

void BenchDeviceRequests(Bench& bench) {
  ComparePolling(bench);
  CompareInvalidation(bench);
  CompareFile(bench, "device.read.64_KiB", "64 KiB of a cached file into guest memory",
              VIRTIO_BLK_T_IN, 1 / 0.9,
              [](int fd, const iovec* part, off_t at) { return preadv(fd, part, 1, at); });
  CompareFile(bench, "device.write.64_KiB", "64 KiB of guest memory into a cached file",
              VIRTIO_BLK_T_OUT, 1 / 0.8,
              [](int fd, const iovec* part, off_t at) { return pwritev(fd, part, 1, at); });
}

}  // namespace underfoot::bench
