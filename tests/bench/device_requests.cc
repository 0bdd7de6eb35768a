// Requests to the virtio block device. The driver and the device take turns on one thread, so no
// wake-up is measured: what remains is the work of a worker that polls, with 32 requests in flight.

#include <linux/virtio_blk.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mmu/base/check.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"
#include "tests/bench/polled_block.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPasses = 8;  // in a turn

Variant Serving(std::string name, const std::shared_ptr<PolledBlock>& scene,
                std::function<void(PolledBlock&)> serve, std::optional<Goal> goal,
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
  const auto scene = std::make_shared<PolledBlock>(*std::move(ram), std::move(disk),
                                                   uint32_t{VIRTIO_BLK_T_IN}, kPageSize);
  const auto raw = [memory](PolledBlock& here) {
    here.Offer();
    here.ServeRaw([memory](uint64_t offset, std::byte* guest, uint64_t bytes) {
      std::memcpy(guest, memory->At(offset), bytes);
    });
  };
  // As a file is read: its bytes cannot go straight to guest memory without a system call.
  auto buffer = std::make_shared<std::vector<std::byte>>(kInFlight / 2 * kPageSize);
  const auto by_buffer = [memory, buffer](PolledBlock& here) {
    here.Offer();
    uint64_t at = 0;
    here.ServeRaw([&](uint64_t offset, std::byte* guest, uint64_t bytes) {
      std::byte* const own = &(*buffer)[at++ % (kInFlight / 2) * kPageSize];
      std::memcpy(own, memory->At(offset), bytes);
      std::memcpy(guest, own, bytes);
    });
  };
  const auto ours = [](PolledBlock& here) {
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

// All of it in the page cache.
absl::StatusOr<std::unique_ptr<virtio::RawDisk>> FilledDisk() {
  absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk = virtio::RawDisk::Temporary(kDiskBytes);
  if (!disk.ok()) return disk;
  const std::vector<std::byte> content(kDiskBytes, std::byte{7});
  UNDERFOOT_CHECK((*disk)->Write(0, content) == 0, "a temporary disk cannot be written", 0, 0);
  return disk;
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
  const auto scene = std::make_shared<PolledBlock>(*std::move(ram), std::make_unique<MemoryDisk>(),
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

// Each request is a system call for either side. Ours reads into a buffer, since a page of guest memory
// may be taken away meanwhile.
void CompareRandomReads(Bench& bench) {
  constexpr char kName[] = "device.read.random_4_KiB";
  if (!bench.Wants(kName)) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(kName, std::string(ram.status().message()));
  absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk = FilledDisk();
  if (!disk.ok()) return bench.Skip(kName, std::string(disk.status().message()));
  const int fd = (*disk)->fd();
  const auto scene = std::make_shared<PolledBlock>(
      *std::move(ram), *std::move(disk), uint32_t{VIRTIO_BLK_T_IN}, kPageSize, Order::kRandom);
  const auto buffer = std::make_shared<std::vector<std::byte>>(kInFlight / 2 * kPageSize);
  const auto raw_pread = [fd](PolledBlock& here) {
    here.Offer();
    here.ServeRaw([fd](uint64_t offset, std::byte* guest, uint64_t bytes) {
      const ssize_t moved = pread(fd, guest, bytes, static_cast<off_t>(offset));
      UNDERFOOT_CHECK(moved == static_cast<ssize_t>(bytes), "a read is short", moved, bytes);
    });
  };
  const auto raw = [fd](PolledBlock& here) {
    here.Offer();
    here.ServeRaw([fd](uint64_t offset, std::byte* guest, uint64_t bytes) {
      const iovec part{guest, bytes};
      const ssize_t moved = preadv(fd, &part, 1, static_cast<off_t>(offset));
      UNDERFOOT_CHECK(moved == static_cast<ssize_t>(bytes), "a read is short", moved, bytes);
    });
  };
  const auto by_buffer = [fd, buffer](PolledBlock& here) {
    here.Offer();
    uint64_t at = 0;
    here.ServeRaw([&](uint64_t offset, std::byte* guest, uint64_t bytes) {
      std::byte* const own = &(*buffer)[at++ % (kInFlight / 2) * kPageSize];
      const ssize_t moved = pread(fd, own, bytes, static_cast<off_t>(offset));
      UNDERFOOT_CHECK(moved == static_cast<ssize_t>(bytes), "a read is short", moved, bytes);
      std::memcpy(guest, own, bytes);
    });
  };
  const auto ours = [](PolledBlock& here) {
    here.Offer();
    here.ServeOurs();
  };
  bench.Compare(
      {.name = kName,
       .what = "a random read of 4 KiB from a cached file, 32 in flight, polled",
       .variants = {Serving("raw pointers, preadv into guest memory", scene, raw, {}),
                    Serving("raw pointers, pread into guest memory", scene, raw_pread, {}),
                    Serving("raw pointers, pread by a buffer", scene, by_buffer, {}),
                    Serving("ours", scene, ours, RatioAtMost(1 / 0.8))}});
}

// `call` is preadv or pwritev of one part.
template <class Call>
void CompareFile(Bench& bench, const char* name, const char* what, uint32_t type, uint64_t bytes,
                 double at_most, const Call& call) {
  if (!bench.Wants(name)) return;
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = MakeRam();
  if (!ram.ok()) return bench.Skip(name, std::string(ram.status().message()));
  absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk = FilledDisk();
  if (!disk.ok()) return bench.Skip(name, std::string(disk.status().message()));
  const int fd = (*disk)->fd();
  const auto scene = std::make_shared<PolledBlock>(*std::move(ram), *std::move(disk), type, bytes);
  const auto raw = [fd, call, bytes](PolledBlock& here) {
    for (uint64_t i = 0; i < kInFlight; ++i) {
      const iovec part{here.Payload(i), bytes};
      const ssize_t moved = call(fd, &part, static_cast<off_t>(here.OffsetInDisk(i)));
      UNDERFOOT_CHECK(moved == static_cast<ssize_t>(bytes), "a transfer is short", moved, 0);
    }
  };
  const auto ours = [](PolledBlock& here) {
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
  CompareRandomReads(bench);
  const auto read = [](int fd, const iovec* part, off_t at) { return preadv(fd, part, 1, at); };
  const auto write = [](int fd, const iovec* part, off_t at) { return pwritev(fd, part, 1, at); };
  CompareFile(bench, "device.read.64_KiB", "64 KiB of a cached file into guest memory",
              VIRTIO_BLK_T_IN, uint64_t{64} << 10, 1 / 0.9, read);
  CompareFile(bench, "device.write.64_KiB", "64 KiB of guest memory into a cached file",
              VIRTIO_BLK_T_OUT, uint64_t{64} << 10, 1 / 0.8, write);
  // More than the worker stages: by a buffer of its own.
  CompareFile(bench, "device.write.128_KiB", "128 KiB of guest memory into a cached file",
              VIRTIO_BLK_T_OUT, uint64_t{128} << 10, 1 / 0.8, write);
}

}  // namespace underfoot::bench
