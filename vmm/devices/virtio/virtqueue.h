// The device's side of a split virtqueue. The rings are accessed through pfn caches, in sections
// that contain only a copy; all state that decides something is private.
//
//   Pop:      available index and heads  ->  descriptors copied out  ->  checked, as private Chains
//   Publish:  used elements and then one index, in one section
//
// Both take up to kMaxBatch requests at once. So a section, and the index, cost little for each of
// them; and a Begin that waits for a section waits for a bounded number of words.
//
// A ring cache may be dropped between two sections at any time. The step is then made again after a
// refresh, with the same private indices, so that each element is published once. While the memslot
// of a ring is away, no step is possible: the outcome is kAway, nothing has changed, and the caller
// tries again later.
//
// A driver that breaks the rules of virtio gets kBroken: an index that is too far ahead, a head or a
// link past the end, a chain with a loop, a buffer outside of RAM or with a length that wraps. The
// queue must not be used after that, until Start.
//
// Thread safety: one thread, with its own Reader. The counters may be read by any thread.
// Invariants: I1 (each access stands in a section), I8 (each write is marked).

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_VIRTQUEUE_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_VIRTQUEUE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "mmu/base/ordering.h"
#include "mmu/base/stats.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "vmm/devices/virtio/ring_layout.h"
#include "vmm/ram/guest_access.h"
#include "vmm/ram/guest_memory.h"

namespace underfoot::virtio {

enum class [[nodiscard]] QueueOutcome : uint8_t{
    kDone,
    kEmpty,   // Pop: nothing is available.  EnableKicks: nothing has become available
    kAway,    // the ring cannot be reached now: try again later
    kBroken,  // the driver has broken the rules, or the memory of its ring is lost for good
};

// A buffer in RAM.
struct Buffer {
  Gpa gpa;
  uint64_t bytes = 0;
};

// A request: what the driver gave, checked and copied.
struct Chain {
  uint16_t head = 0;
  std::vector<Buffer> readable;  // by the device
  std::vector<Buffer> writable;  // by the device
  uint64_t readable_bytes = 0;
  uint64_t writable_bytes = 0;
};

// A request that is answered. `written`: the bytes at the beginning of the chain's writable part that
// the device has written. `whole`: these are all bytes of that part.
struct Answer {
  uint16_t head = 0;
  uint32_t written = 0;
  bool whole = false;
};

class Virtqueue {
 public:
  static constexpr size_t kMaxBatch = 16;  // chains taken, or answers published, at once
  static constexpr uint16_t kMaxSize = 256;
  static constexpr uint64_t kCaches = 3;  // pfn caches
  // The most descriptors of an indirect table. Linux's drivers use more than the queue has.
  static constexpr uint64_t kMaxIndirect = 1024;

  // One section copies at most this many descriptors of the chains after the first one.
  static constexpr size_t kMaxBatchDescriptors = 256;
  static_assert(kMaxSize <= kMaxBatchDescriptors);  // the first chain is copied whole

  struct Parts {
    Mmu& mmu;
    const GuestMemory& memory;
    GuestAccess& access;
  };

  Virtqueue(const Parts& parts, const std::string& name);
  Virtqueue(const Virtqueue&) = delete;
  Virtqueue& operator=(const Virtqueue&) = delete;
  ~Virtqueue() { Stop(); }

  // Whether the areas are where the rules allow them to be: size a power of two up to kMaxSize,
  // areas aligned, each within one memslot of RAM.
  static bool LayoutIsValid(const GuestMemory& memory, const RingLayout& layout);

  // Begins with indices of 0. `layout` is valid; `features` are those that the driver accepted.
  void Start(const RingLayout& layout, uint64_t features);
  // Lets go of the rings. Idempotent.
  void Stop();

  // Takes as many chains as there are, and as `chains` has room for; 1..kMaxBatch. kDone: `taken` is at
  // least 1. If a later chain breaks the rules, those before it are taken, and the next Pop says so.
  QueueOutcome Pop(Reader& reader, std::span<Chain> chains, size_t& taken);
  QueueOutcome Pop(Reader& reader, Chain& chain) {
    size_t taken = 0;
    return Pop(reader, std::span(&chain, 1), taken);
  }
  // 1..kMaxBatch answers, in the order in which their chains were taken. The driver sees all of them at
  // once.
  QueueOutcome Publish(Reader& reader, std::span<const Answer> answers);
  QueueOutcome Publish(Reader& reader, uint16_t head, uint32_t written) {
    const Answer answer{head, written};
    return Publish(reader, std::span(&answer, 1));
  }
  // Whether the driver wants an interrupt for what was published since the last call. In doubt it does.
  bool WantsInterrupt(Reader& reader);
  // Asks the driver to notify the device of the next chain. kDone: a chain is available already.
  QueueOutcome EnableKicks(Reader& reader);

  // The next chain to take and the next element to publish, as the driver counts them.
  uint16_t next_available() const { return next_available_.load(kRelaxed); }
  uint16_t next_used() const { return next_used_.load(kRelaxed); }
  // Refreshes of ring caches, and those of them while a chain was taken and not yet published.
  uint64_t refreshes() const { return refreshes_.Get(); }
  uint64_t refreshes_in_request() const { return refreshes_in_request_.Get(); }

 private:
  // One of the three areas.
  struct Area {
    Area(Mmu& mmu, const std::string& name, Access needs) : cache(mmu, name), access(needs) {}

    PfnCache cache;
    const Access access;
    Gpa gpa;
    uint64_t bytes = 0;
    bool active = false;
    unsigned failures = 0;  // activations in a row that failed although the memslot is there
  };

  // Calls `use` with the bytes of the area, in a section; again with a refreshed cache if the cache
  // was dropped before.
  template <class Use>
  QueueOutcome In(Reader& reader, Area& area, const Use& use);
  QueueOutcome MakeValid(Reader& reader, Area& area);
  void ReadBack(Reader& reader, const Area& area);
  // A chain in copied_.
  struct Copied {
    uint16_t end = 0;          // its last descriptor is in front of this place
    bool whole = false;        // up to its last descriptor
    bool names_table = false;  // a descriptor of it names a table
  };
  Copied CopyChain(std::byte* area, uint16_t head, size_t begin);
  QueueOutcome Expand(Reader& reader, std::span<const Descriptor>& chain);
  QueueOutcome CopyIndirect(Reader& reader, const Descriptor& table);
  QueueOutcome Check(std::span<const Descriptor> descriptors, Chain& chain) const;

  Mmu& mmu_;
  const GuestMemory& memory_;
  GuestAccess& access_;
  Area descriptors_;
  Area available_;
  Area used_;
  RingLayout layout_;
  bool event_index_ = false;
  bool indirect_ = false;
  bool in_order_ = false;

  // Relaxed: only the queue's thread writes these two; other threads only show them.
  std::atomic<uint16_t> next_available_{0};
  std::atomic<uint16_t> next_used_{0};
  uint64_t held_ = 0;         // chains taken and not yet published
  uint16_t judged_used_ = 0;  // what WantsInterrupt has decided for
  // The chains of a Pop as the driver wrote them, links followed.
  std::array<Descriptor, kMaxBatchDescriptors> copied_;
  std::vector<Descriptor> expanded_;
  std::vector<Descriptor> indirect_table_;

  Counter refreshes_;
  Counter refreshes_in_request_;
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_VIRTQUEUE_H_
