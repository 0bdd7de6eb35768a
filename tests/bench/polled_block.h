// A virtio block device in guest memory, whose driver and worker take turns on one thread: the ring
// with requests of one kind and size in it, and both sides of it.
//
// Thread safety: one thread, but for BeginNs and FaultIn, which one other thread may call meanwhile.

#ifndef UNDERFOOT_TESTS_BENCH_POLLED_BLOCK_H_
#define UNDERFOOT_TESTS_BENCH_POLLED_BLOCK_H_

#include <linux/virtio_blk.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guest/abi.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "tests/bench/stopwatch.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/devices/virtio/block.h"
#include "vmm/devices/virtio/request_batch.h"
#include "vmm/devices/virtio/virtqueue.h"

namespace underfoot::bench {

using virtio::Descriptor;
using virtio::Disk;

inline constexpr uint64_t kRamBytes = uint64_t{32} << 20;
inline constexpr uint64_t kDiskBytes = uint64_t{4} << 20;
inline constexpr uint16_t kInFlight = 32;
inline constexpr uint16_t kRingSize = 128;
inline constexpr uint64_t kDescriptorsOfRequest = 3;

// A memory of the same size as a disk, so that no system call hides what the rings cost.
class MemoryDisk : public Disk {
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

// Where on the disk the requests are.
enum class Order : uint8_t { kOneAfterTheOther, kRandom };

// Guest memory with a ring, 32 requests of one kind and size in it, and both sides of it.
class PolledBlock {
 public:
  PolledBlock(std::unique_ptr<CoherentRam> ram, std::unique_ptr<Disk> disk, uint32_t type,
              uint64_t bytes, Order order = Order::kOneAfterTheOther)
      : ram_(std::move(ram)),
        type_(type),
        bytes_(bytes),
        order_(order),
        block_(std::move(disk), 1, "bench"),
        parts_{ram_->mmu(), ram_->memory(), ram_->access()},
        queue_(parts_, "bench"),
        direct_(ram_->mmu().direct_requests(), ram_->mmu().in_flight(), ram_->mmu().memslots()),
        reader_(ram_->mmu().readers()),
        host_(ram_->mmu().readers()),
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
  ~PolledBlock() { queue_.Stop(); }

  std::byte* Payload(uint64_t request) const { return At(payload_ + request * bytes_); }
  uint64_t OffsetInDisk(uint64_t request) const {
    return (order_ == Order::kRandom ? abi::Mix(request) : request) % (kDiskBytes / bytes_) *
           bytes_;
  }

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

  // The steps of ours (RequestBatch) for as many requests at once, and nothing else. `areas` has a scheme
  // of comparators/protected_word.h for each area of the ring, and one whose Copy moves headers and payload.
  template <class Areas>
  void ServeProtected(Areas& areas, const MemoryDisk& disk) {
    std::byte* const available = At(layout_.available);
    for (uint16_t served = 0; served < kInFlight; served += kAtOnce) {
      std::array<uint16_t, kAtOnce> heads;
      InSection(areas.available, [&] {
        const auto index = virtio::WordAt<uint16_t>(available, virtio::kRingIndex).load(kAcquire);
        UNDERFOOT_CHECK(static_cast<uint16_t>(index - raw_next_) >= kAtOnce, "no request", index,
                        raw_next_);
        for (uint16_t& head : heads) {
          const size_t at = layout_.head_offset(raw_next_++);
          head = virtio::WordAt<uint16_t>(available, at).load(kRelaxed);
        }
      });
      std::array<std::array<Descriptor, kDescriptorsOfRequest>, kAtOnce> chains;
      InSection(areas.descriptors, [&] {
        for (size_t i = 0; i < kAtOnce; ++i) {
          std::memcpy(chains[i].data(), At(layout_.descriptors) + heads[i] * sizeof(Descriptor),
                      sizeof(chains[i]));
        }
      });
      std::array<virtio_blk_outhdr, kAtOnce> headers;
      std::array<GuestCopy, kAtOnce> fetches;
      for (size_t i = 0; i < kAtOnce; ++i) {
        fetches[i] = {{chains[i][0].gpa}, Access::kRead, BytesOf(headers[i]), sizeof(headers[i])};
      }
      areas.payload.Copy(fetches);
      for (size_t first = 0; first < kAtOnce; first += kInSection) {
        std::byte ok{VIRTIO_BLK_S_OK};
        std::array<GuestCopy, 2 * kInSection> answers;
        for (size_t i = 0; i < kInSection; ++i) {
          std::byte* const staged = buffer_.data() + i * bytes_;
          std::memcpy(staged, disk.At(headers[first + i].sector * Disk::kSectorBytes), bytes_);
          answers[2 * i] = {{chains[first + i][1].gpa}, Access::kWrite, staged, bytes_};
          answers[2 * i + 1] = {{chains[first + i][2].gpa}, Access::kWrite, &ok, 1};
        }
        areas.payload.Copy(answers);
      }
      InSection(areas.used, [&] {
        for (size_t i = 0; i < kAtOnce; ++i) {
          const virtio::UsedElement element{heads[i], static_cast<uint32_t>(bytes_ + 1)};
          std::memcpy(At(layout_.used) + layout_.element_offset(raw_used_++), &element,
                      sizeof(element));
        }
        virtio::WordAt<uint16_t>(At(layout_.used), virtio::kRingIndex)
            .exchange(raw_used_, kStoreLoad);
      });
      InSection(areas.available, [&] {
        KeepAlive(virtio::WordAt<uint16_t>(available, virtio::kRingFlags).load(kStoreLoad));
      });
    }
  }

  // Copies by pointers that are not looked up, in a section of `scheme`.
  template <class Scheme>
  void CopyInSection(Scheme& scheme, std::span<const GuestCopy> copies) const {
    InSection(scheme, [&] {
      for (const GuestCopy& copy : copies) {
        std::byte* const guest = At(copy.gpa);
        if (copy.access == Access::kWrite) {
          std::memcpy(guest, copy.own, copy.bytes);
        } else {
          std::memcpy(copy.own, guest, copy.bytes);
        }
      }
    });
  }

  // Our own protection for ServeProtected: pfn caches for the ring, stage-2 look-ups for the rest.
  class OurAreas {
   public:
    explicit OurAreas(PolledBlock& block)
        : available(block, block.layout_.available, block.layout_.available_bytes()),
          descriptors(block, block.layout_.descriptors, block.layout_.descriptor_bytes()),
          used(block, block.layout_.used, block.layout_.used_bytes()),
          payload{block} {}

    struct Cached {
      Cached(PolledBlock& in, Gpa gpa, uint64_t bytes) : block(in), cache(in.ram_->mmu(), "bench") {
        UNDERFOOT_CHECK(cache.Activate(in.reader_, gpa, bytes, Access::kWrite).ok(),
                        "a ring has no cache", gpa.value, bytes);
      }
      ~Cached() { cache.Deactivate(); }
      template <class Use>
      bool Section(const Use& use) {
        const CacheSection section = cache.Check(block.reader_);
        if (!section) {
          static_cast<void>(cache.Refresh(block.reader_));
          return false;
        }
        use();
        section.MarkDirty();
        return true;
      }
      PolledBlock& block;
      PfnCache cache;
    };
    struct Payload {
      void Copy(std::span<const GuestCopy> copies) {
        while (!copies.empty()) {
          copies = copies.subspan(block.ram_->access().TryCopy(block.reader_, copies));
          if (copies.empty()) break;
          static_cast<void>(block.ram_->mmu().faults().FaultIn(
              block.reader_, GfnOf(copies.front().gpa), copies.front().access));
        }
      }
      PolledBlock& block;
    };
    Cached available;
    Cached descriptors;
    Cached used;
    Payload payload;
  };

  // Makes the first page of the payload of a request translated again.
  void FaultIn(uint64_t request) {
    static_cast<void>(
        ram_->mmu().faults().FaultIn(host_, GfnOf(payload_ + request * bytes_), Access::kWrite));
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
  static constexpr uint16_t kAtOnce = virtio::Virtqueue::kMaxBatch;
  static constexpr size_t kInSection = 4;  // payloads: ours copies at each 16 KiB

  // While the translation is away, the worker tries again.
  template <class Scheme, class Use>
  static void InSection(Scheme& scheme, const Use& use) {
    while (!scheme.Section(use)) CpuRelax();
  }

  static std::byte* BytesOf(virtio_blk_outhdr& header) {
    return reinterpret_cast<std::byte*>(&header);
  }

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
    // Brought in by this thread: under callgrind, which runs one thread at a time, a fault would never end.
    const std::vector<std::byte> zeroes(4 * kPageSize + kInFlight * bytes_);
    UNDERFOOT_CHECK(ram_->access().Write(reader_, first, zeroes).ok(), "guest memory cannot be had",
                    first.value, zeroes.size());
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
  const Order order_;
  virtio::Block block_;
  const virtio::Virtqueue::Parts parts_;
  virtio::Virtqueue queue_;
  DirectRequest direct_;
  Reader reader_;
  Reader host_;  // of the thread that invalidates
  virtio::QueueCounters counters_;
  const std::atomic<bool> let_go_{false};
  virtio::RequestBatch batch_;
  virtio::RingLayout layout_;
  Gpa payload_;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(kInSection * bytes_);
  uint16_t offered_ = 0;
  uint16_t raw_next_ = 0;
  uint16_t raw_used_ = 0;
};

inline absl::StatusOr<std::unique_ptr<CoherentRam>> MakeRam() {
  absl::StatusOr<std::unique_ptr<CoherentRam>> ram = CoherentRam::Create({.bytes = kRamBytes});
  if (!ram.ok()) return ram;
  if (absl::Status started = (*ram)->Start(); !started.ok()) return started;
  return ram;
}

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_POLLED_BLOCK_H_
