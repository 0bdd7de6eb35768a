#include "guest/disk.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include "guest/barrier.h"
#include "guest/virtio.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kIndirectFeature = uint64_t{1} << 28;
constexpr uint64_t Bit(unsigned bit) { return uint64_t{1} << bit; }

constexpr uint64_t kSlots = 4;  // requests at once
constexpr uint64_t kDataPages = 2;
constexpr uint64_t kSlotSectors = kDataPages * kPageBytes / abi::kSectorBytes;
// A request alone in its queue may use the data pages of all slots. A read of this length goes
// straight to guest memory.
constexpr uint64_t kLongSectors = kSlots * kSlotSectors;
constexpr uint64_t kDescriptorsOfSlot = 4;
constexpr uint32_t kRoundsBetweenLongReads = 8;

// What is known of a sector: the generation that was written last, or one of these.
constexpr uint32_t kUnknown = 0;  // never written, or discarded
constexpr uint32_t kZeroes = ~uint32_t{0};

enum class Operation : uint8_t {
  kNone,
  kRead,
  kWrite,
  kZero,
  kDiscard,
  kFlush,
  kIdentity,
  kBeyond,     // a read past the end of the disk: it must fail
  kOddType,    // a request of a type that there is not
  kForbidden,  // a write to a disk that is read-only
};

struct Slot {
  Operation operation;
  uint64_t sector;
  uint64_t sectors;
  uint32_t generation;
};

struct Queue {
  Virtqueue ring;
  uint64_t pages;  // gpa: rings, headers, tables, data
  abi::DiskPart part;
  bool lost;  // the device has asked for a reset
  uint32_t generation;
  uint64_t next_descriptor;  // in order, descriptors are used round the ring
  bool long_read;            // slot 0 has the data pages of all slots
  uint32_t rounds_to_long_read;
  Slot slots[kSlots];
  uint8_t slot_of_head[Virtqueue::kSize];
  uint32_t notes[abi::kMaxPartSectors];
};

struct Disk {
  uint64_t registers;
  uint64_t sectors;
  uint64_t queues;
  uint64_t features;
  uint64_t ready;  // 1: the other vCPUs may use their queues
  Queue queue[abi::kMaxDiskQueues];
};
constinit Disk disk{};

bool InOrder() { return (disk.features & kInOrderFeature) != 0; }
bool ReadOnly() { return (disk.features & Bit(VIRTIO_BLK_F_RO)) != 0; }

// Of slot `s` of a queue.
uint64_t HeaderOf(const Queue& queue, uint64_t s) { return queue.pages + 3 * kPageBytes + s * 64; }
uint64_t RangeOf(const Queue& queue, uint64_t s) { return HeaderOf(queue, s) + 16; }
uint64_t StatusOf(const Queue& queue, uint64_t s) { return HeaderOf(queue, s) + 32; }
uint64_t TableOf(const Queue& queue, uint64_t s) { return queue.pages + 4 * kPageBytes + s * 64; }
uint64_t DataOf(const Queue& queue, uint64_t s) {
  return queue.pages + (5 + s * kDataPages) * kPageBytes;
}

uint64_t Pattern(const Context& context, uint64_t sector, uint32_t generation, uint64_t word) {
  if (generation == kZeroes) return 0;
  return (abi::Mix(context.boot.seed ^ sector << 32 ^ generation) + word * 0x9e3779b97f4a7c15) | 1;
}

// The descriptors of a slot. Odd slots have them in an indirect table, with the data in two parts.
class Chain {
 public:
  Chain(Queue& queue, uint64_t s, bool indirect) : queue_(queue), s_(s), indirect_(indirect) {}

  void Add(uint64_t gpa, uint32_t bytes, uint16_t flags) { parts_[count_++] = {gpa, bytes, flags}; }
  void AddData(uint64_t bytes, uint16_t flags) {
    const uint64_t data = DataOf(queue_, s_);
    const uint64_t first = indirect_ && bytes > kPageBytes ? kPageBytes : bytes;
    if (first != 0) Add(data, static_cast<uint32_t>(first), flags);
    if (bytes > first) Add(data + first, static_cast<uint32_t>(bytes - first), flags);
  }
  void Offer() {
    // In order: from the first descriptor of the ring to the last one, and again ("In-order use of
    // descriptors" in virtio 1.2). The chains of all slots are shorter than the ring.
    const uint64_t first = InOrder() ? queue_.next_descriptor : s_ * kDescriptorsOfSlot;
    const auto at = [first](uint64_t i) {
      return static_cast<uint16_t>((first + i) % Virtqueue::kSize);
    };
    queue_.next_descriptor = at(indirect_ ? 1 : count_);
    queue_.slot_of_head[at(0)] = static_cast<uint8_t>(s_ + 1);
    for (uint64_t i = 0; i < count_; ++i) {
      const Part& part = parts_[i];
      const bool last = i + 1 == count_;
      const auto flags = static_cast<uint16_t>(part.flags | (last ? 0 : Virtqueue::kNext));
      const auto next = static_cast<uint16_t>(last ? 0 : i + 1);
      if (indirect_) {
        Store(TableOf(queue_, s_) + 16 * i, part.gpa);
        Store(TableOf(queue_, s_) + 16 * i + 8,
              part.bytes | uint64_t{flags} << 32 | uint64_t{next} << 48);
      } else {
        queue_.ring.SetDescriptor(at(i), part.gpa, part.bytes, flags, last ? 0 : at(next));
      }
    }
    if (indirect_) {
      queue_.ring.SetDescriptor(at(0), TableOf(queue_, s_), static_cast<uint32_t>(16 * count_),
                                Virtqueue::kIndirect, 0);
    }
    queue_.ring.Offer(at(0));
  }

 private:
  struct Part {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags;
  };
  Queue& queue_;
  const uint64_t s_;
  const bool indirect_;
  Part parts_[kDescriptorsOfSlot] = {};
  uint64_t count_ = 0;
};

uint32_t TypeOf(Operation operation) {
  switch (operation) {
    case Operation::kWrite:
    case Operation::kForbidden:
      return VIRTIO_BLK_T_OUT;
    case Operation::kZero:
      return VIRTIO_BLK_T_WRITE_ZEROES;
    case Operation::kDiscard:
      return VIRTIO_BLK_T_DISCARD;
    case Operation::kFlush:
      return VIRTIO_BLK_T_FLUSH;
    case Operation::kIdentity:
      return VIRTIO_BLK_T_GET_ID;
    case Operation::kOddType:
      return 0x7777;
    case Operation::kNone:
    case Operation::kRead:
    case Operation::kBeyond:
      return VIRTIO_BLK_T_IN;
  }
  return VIRTIO_BLK_T_IN;
}

uint8_t ExpectedStatus(Operation operation) {
  switch (operation) {
    case Operation::kBeyond:
    case Operation::kForbidden:
      return VIRTIO_BLK_S_IOERR;
    case Operation::kOddType:
      return VIRTIO_BLK_S_UNSUPP;
    default:
      return VIRTIO_BLK_S_OK;
  }
}

Operation Choose(Context& context) {
  const uint64_t draw = context.random.Below(64);
  if (draw < 2) return Operation::kFlush;
  if (draw < 4) return Operation::kIdentity;
  if (draw < 5) return Operation::kBeyond;
  if (draw < 6) return Operation::kOddType;
  if (ReadOnly()) return draw < 8 ? Operation::kForbidden : Operation::kRead;
  if (draw < 10) return Operation::kZero;
  if (draw < 12) return Operation::kDiscard;
  return draw < 36 ? Operation::kRead : Operation::kWrite;
}

void FillData(const Context& context, const Queue& queue, uint64_t s) {
  const Slot& slot = queue.slots[s];
  const uint64_t data = DataOf(queue, s);
  for (uint64_t i = 0; i < slot.sectors; ++i) {
    for (uint64_t word = 0; word < abi::kSectorWords; ++word) {
      // A read must replace every word. An even one is in no pattern but zeroes.
      Store(data + i * abi::kSectorBytes + word * 8,
            slot.operation == Operation::kWrite
                ? Pattern(context, slot.sector + i, slot.generation, word)
                : 2);
    }
  }
}

void Submit(Context& context, Queue& queue, uint64_t s) {
  const Slot& slot = queue.slots[s];
  const uint64_t bytes = slot.sectors * abi::kSectorBytes;
  Store(HeaderOf(queue, s), TypeOf(slot.operation));
  Store(HeaderOf(queue, s) + 8,
        slot.operation == Operation::kBeyond ? disk.sectors - slot.sectors + 1 : slot.sector);
  Store(StatusOf(queue, s), 0xff);
  Chain chain(queue, s, s % 2 == 1);
  chain.Add(HeaderOf(queue, s), 16, 0);
  switch (slot.operation) {
    case Operation::kRead:
    case Operation::kBeyond:
      FillData(context, queue, s);
      chain.AddData(bytes, Virtqueue::kDeviceWrites);
      break;
    case Operation::kWrite:
    case Operation::kForbidden:
      FillData(context, queue, s);
      chain.AddData(bytes, 0);
      break;
    case Operation::kZero:
    case Operation::kDiscard: {
      // Every second write of zeroes lets the host unmap the range.
      const uint64_t flags = slot.operation == Operation::kZero ? slot.generation % 2 : 0;
      Store(RangeOf(queue, s), slot.sector);
      Store(RangeOf(queue, s) + 8, slot.sectors | flags << 32);
      chain.Add(RangeOf(queue, s), 16, 0);
      break;
    }
    case Operation::kIdentity:
      chain.AddData(VIRTIO_BLK_ID_BYTES, Virtqueue::kDeviceWrites);
      break;
    case Operation::kNone:
    case Operation::kFlush:
    case Operation::kOddType:
      break;
  }
  chain.Add(StatusOf(queue, s), 1, Virtqueue::kDeviceWrites);
  chain.Offer();
}

// Slot s has its own quarter of the part, so that requests that run at once never overlap.
void Begin(Context& context, Queue& queue, uint64_t s) {
  Slot& slot = queue.slots[s];
  const uint64_t quarter = queue.part.sectors / kSlots;
  slot.operation = Choose(context);
  slot.sectors = 1 + context.random.Below(quarter < kSlotSectors ? quarter : kSlotSectors);
  slot.sector = queue.part.first + s * quarter + context.random.Below(quarter - slot.sectors + 1);
  slot.generation = ++queue.generation & 0x7fffffff;
  Submit(context, queue, s);
}

void BeginLongRead(Context& context, Queue& queue) {
  Slot& slot = queue.slots[0];
  slot.operation = Operation::kRead;
  slot.sectors = queue.part.sectors < kLongSectors ? queue.part.sectors : kLongSectors;
  slot.sector = queue.part.first + context.random.Below(queue.part.sectors - slot.sectors + 1);
  slot.generation = ++queue.generation & 0x7fffffff;
  Submit(context, queue, 0);
}

void VerifyData(Context& context, Queue& queue, uint64_t s) {
  const Slot& slot = queue.slots[s];
  const uint64_t data = DataOf(queue, s);
  for (uint64_t i = 0; i < slot.sectors; ++i) {
    const uint64_t sector = slot.sector + i;
    const uint32_t note = queue.notes[sector - queue.part.first];
    if (note == kUnknown) continue;
    for (uint64_t word = 0; word < abi::kSectorWords; ++word) {
      const uint64_t found = Load(data + i * abi::kSectorBytes + word * 8);
      const uint64_t expected = Pattern(context, sector, note, word);
      if (found == expected) continue;
      Mismatch(context, {.gfn = sector,
                         .word = word,
                         .expected = expected,
                         .found = found,
                         .kind = abi::MismatchKind::kDisk});
      return;
    }
  }
}

void Note(Queue& queue, const Slot& slot, uint32_t note) {
  for (uint64_t i = 0; i < slot.sectors; ++i) {
    queue.notes[slot.sector + i - queue.part.first] = note;
  }
}

uint64_t WrittenBy(const Slot& slot) {
  switch (slot.operation) {
    case Operation::kRead:
      return slot.sectors * abi::kSectorBytes + 1;
    case Operation::kIdentity:
      return VIRTIO_BLK_ID_BYTES + 1;
    default:
      return 1;
  }
}

// What the device may write for the slot: more than it writes if the request fails.
uint64_t WritableOf(const Slot& slot) {
  const bool fails = slot.operation == Operation::kBeyond;
  return fails ? slot.sectors * abi::kSectorBytes + 1 : WrittenBy(slot);
}

void Complete(Context& context, Queue& queue, uint64_t s, const Virtqueue::Answer& answer) {
  Slot& slot = queue.slots[s];
  const uint64_t status = Load(StatusOf(queue, s)) & 0xff;
  const uint64_t written = answer.whole ? WritableOf(slot) : answer.written;
  if (answer.whole) Add(context.report.answers_in_runs, 1);
  if (written != WrittenBy(slot)) {
    DeviceMismatch(context, disk.registers, DeviceStep::kWritten, WrittenBy(slot), written);
  }
  if (status != ExpectedStatus(slot.operation)) {
    DeviceMismatch(context, disk.registers, DeviceStep::kStatus, ExpectedStatus(slot.operation),
                   status);
  }
  switch (slot.operation) {
    case Operation::kRead:
      VerifyData(context, queue, s);
      break;
    case Operation::kWrite:
      Note(queue, slot, slot.generation);
      break;
    case Operation::kZero:
      Note(queue, slot, kZeroes);
      break;
    case Operation::kDiscard:
      Note(queue, slot, kUnknown);
      break;
    case Operation::kIdentity:
      if (const uint64_t found = Load(DataOf(queue, s)); found != abi::kDiskIdWord) {
        DeviceMismatch(context, disk.registers, DeviceStep::kIdentity, abi::kDiskIdWord, found);
      }
      break;
    default:
      break;
  }
  slot.operation = Operation::kNone;
  Add(context.report.device_requests, 1);
}

bool TakeAnswers(Context& context, Queue& queue) {
  bool any = false;
  for (;;) {
    const Virtqueue::Answer answer = queue.ring.Take();
    if (!answer.any) return any;
    any = true;
    const uint64_t s = answer.head < Virtqueue::kSize ? queue.slot_of_head[answer.head] : 0;
    if (s == 0) {
      DeviceMismatch(context, disk.registers, DeviceStep::kHead, 0, answer.head);
      continue;
    }
    queue.slot_of_head[answer.head] = 0;
    Complete(context, queue, s - 1, answer);
  }
}

bool Busy(const Queue& queue) {
  for (const Slot& slot : queue.slots) {
    if (slot.operation != Operation::kNone) return true;
  }
  return false;
}

void WaitForAnswers(Context& context, Queue& queue) {
  Spinner spinner(context);
  for (uint64_t looks = 1; Busy(queue) && !queue.lost; ++looks) {
    if (TakeAnswers(context, queue)) continue;
    spinner.Wait();
    if (looks % Virtqueue::kLooks != 0) continue;
    const uint32_t status = Load32(disk.registers + VIRTIO_MMIO_STATUS);
    if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) continue;
    queue.lost = true;
    DeviceMismatch(context, disk.registers, DeviceStep::kNoAnswer, 0, status);
  }
}

void RunOne(Context& context, Queue& queue, const Slot& slot) {
  queue.slots[0] = slot;
  Submit(context, queue, 0);
  WaitForAnswers(context, queue);
}

}  // namespace

bool DrivesDisk(const Context& context) {
  return __atomic_load_n(&disk.ready, __ATOMIC_ACQUIRE) != 0 && context.vcpu < disk.queues;
}

void SetUpDisk(Context& context, uint64_t pages) {
  const uint64_t registers = FindDevice(context.boot, VIRTIO_ID_BLOCK);
  if (registers == 0) return;
  disk.registers = registers;
  const uint64_t config = registers + VIRTIO_MMIO_CONFIG;
  disk.sectors = Load32(config) | uint64_t{Load32(config + 4)} << 32;
  disk.features =
      Negotiate(registers, kIndirectFeature | Bit(VIRTIO_BLK_F_RO) | Bit(VIRTIO_BLK_F_FLUSH) |
                               Bit(VIRTIO_BLK_F_MQ) | Bit(VIRTIO_BLK_F_DISCARD) |
                               Bit(VIRTIO_BLK_F_WRITE_ZEROES) |
                               (context.boot.seed % 2 == 1 ? kInOrderFeature : 0));
  if (disk.features == 0) {
    return DeviceMismatch(context, registers, DeviceStep::kFeatures, 1, 0);
  }
  uint64_t queues = Load32(config + __builtin_offsetof(virtio_blk_config, num_queues)) & 0xffff;
  if (queues > context.boot.vcpus) queues = context.boot.vcpus;
  if (queues > abi::kMaxDiskQueues) queues = abi::kMaxDiskQueues;
  for (uint64_t q = 0; q < queues; ++q) {
    Queue& queue = disk.queue[q];
    queue.pages = pages + q * kDiskQueuePages * kPageBytes;
    queue.part = abi::PartOf(q, queues, disk.sectors);
    if (queue.part.sectors < kSlots || !queue.ring.Place(registers, q, queue.pages)) {
      return DeviceMismatch(context, registers, DeviceStep::kQueue, kSlots, queue.part.sectors);
    }
    if (InOrder()) queue.ring.TakeInOrder();
  }
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
  if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0 || (status & VIRTIO_CONFIG_S_DRIVER_OK) == 0) {
    return DeviceMismatch(context, registers, DeviceStep::kRunning, VIRTIO_CONFIG_S_DRIVER_OK,
                          status);
  }
  disk.queues = queues;
  __atomic_store_n(&disk.ready, 1, __ATOMIC_RELEASE);
}

void DiskRound(Context& context) {
  if (!DrivesDisk(context)) return;
  Queue& queue = disk.queue[context.vcpu];
  TakeAnswers(context, queue);
  // A long read is alone: before it and during it no other request begins.
  if ((queue.long_read || queue.rounds_to_long_read == 0) && Busy(queue)) return;
  queue.long_read = queue.rounds_to_long_read == 0;
  if (queue.long_read) {
    queue.rounds_to_long_read = kRoundsBetweenLongReads;
    return BeginLongRead(context, queue);
  }
  --queue.rounds_to_long_read;
  for (uint64_t s = 0; s < kSlots; ++s) {
    if (queue.slots[s].operation == Operation::kNone) Begin(context, queue, s);
  }
}

void FinishDisk(Context& context) {
  if (!DrivesDisk(context)) return;
  Queue& queue = disk.queue[context.vcpu];
  WaitForAnswers(context, queue);
  if (!queue.lost) {
    RunOne(context, queue,
           {.operation = Operation::kFlush, .sector = 0, .sectors = 0, .generation = 0});
  }
  uint64_t digest = 0;
  for (uint64_t done = 0; done < queue.part.sectors && !queue.lost;) {
    const uint64_t left = queue.part.sectors - done;
    const uint64_t sectors = left < kLongSectors ? left : kLongSectors;
    const uint64_t first = queue.part.first + done;
    RunOne(context, queue,
           {.operation = Operation::kRead, .sector = first, .sectors = sectors, .generation = 0});
    for (uint64_t i = 0; i < sectors; ++i) {
      uint64_t words[abi::kSectorWords];
      for (uint64_t word = 0; word < abi::kSectorWords; ++word) {
        words[word] = Load(DataOf(queue, 0) + i * abi::kSectorBytes + word * 8);
      }
      digest += abi::DigestOfSector(first + i, words);
    }
    done += sectors;
  }
  Poke(context.report.disk_digest, digest);
}

}  // namespace underfoot::guest
