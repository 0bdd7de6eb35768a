#include "vmm/devices/virtio/virtqueue.h"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <span>

#include "absl/status/status.h"

namespace underfoot::virtio {
namespace {

// An activation waits for about two seconds by itself before it gives up.
constexpr unsigned kMostFailures = 3;
// The most bytes of a whole chain, by section 2.7.5 of the standard.
constexpr uint64_t kMaxChainBytes = uint64_t{1} << 32;

bool InOneSlot(const GuestMemory& memory, Gpa gpa, uint64_t bytes) {
  if (!memory.IsRam(gpa, bytes)) return false;
  return std::any_of(memory.slots().begin(), memory.slots().end(), [&](const RamSlot& slot) {
    return gpa >= slot.gpa && gpa - slot.gpa < slot.bytes && bytes <= slot.bytes - (gpa - slot.gpa);
  });
}

}  // namespace

Virtqueue::Virtqueue(const Parts& parts, const std::string& name)
    : mmu_(parts.mmu),
      memory_(parts.memory),
      access_(parts.access),
      descriptors_(mmu_, name + "-descriptors", Access::kRead),
      available_(mmu_, name + "-available", Access::kRead),
      used_(mmu_, name + "-used", Access::kWrite) {}

bool Virtqueue::LayoutIsValid(const GuestMemory& memory, const RingLayout& layout) {
  return layout.size <= kMaxSize && std::has_single_bit(layout.size) &&
         layout.descriptors.value % sizeof(Descriptor) == 0 &&
         layout.available.value % sizeof(uint16_t) == 0 &&
         layout.used.value % sizeof(uint32_t) == 0 &&
         InOneSlot(memory, layout.descriptors, layout.descriptor_bytes()) &&
         InOneSlot(memory, layout.available, layout.available_bytes()) &&
         InOneSlot(memory, layout.used, layout.used_bytes());
}

void Virtqueue::Start(const RingLayout& layout, uint64_t features) {
  Stop();
  layout_ = layout;
  event_index_ = (features & kEventIndex) != 0;
  indirect_ = (features & kIndirectDescriptors) != 0;
  in_order_ = (features & kInOrder) != 0;
  next_available_.store(0, kRelaxed);
  next_used_.store(0, kRelaxed);
  held_ = 0;
  judged_used_ = 0;
  const auto place = [](Area& area, Gpa gpa, uint64_t bytes) {
    area.gpa = gpa;
    area.bytes = bytes;
    area.failures = 0;
  };
  place(descriptors_, layout.descriptors, layout.descriptor_bytes());
  place(available_, layout.available, layout.available_bytes());
  place(used_, layout.used, layout.used_bytes());
}

void Virtqueue::Stop() {
  for (Area* area : {&descriptors_, &available_, &used_}) {
    area->cache.Deactivate();
    area->active = false;
  }
}

// A cache is activated when it is used first: at the time at which the driver names the ring, the
// memslot may be away.
QueueOutcome Virtqueue::MakeValid(Reader& reader, Area& area) {
  if (!area.active) {
    const absl::Status activated = area.cache.Activate(reader, area.gpa, area.bytes, area.access);
    if (activated.ok()) {
      area.active = true;
      area.failures = 0;
      return QueueOutcome::kDone;
    }
    if (absl::IsNotFound(activated)) return QueueOutcome::kAway;
    return ++area.failures < kMostFailures ? QueueOutcome::kAway : QueueOutcome::kBroken;
  }
  switch (area.cache.Refresh(reader)) {
    case RefreshOutcome::kValid:
      refreshes_.Add();
      if (held_ != 0) refreshes_in_request_.Add();
      return QueueOutcome::kDone;
    case RefreshOutcome::kRemovalPending:
      ReadBack(reader, area);
      return QueueOutcome::kAway;
    case RefreshOutcome::kNoMemslot:
    case RefreshOutcome::kAgain:
      return QueueOutcome::kAway;
    case RefreshOutcome::kInactive:
    case RefreshOutcome::kFailed:
      return QueueOutcome::kBroken;
  }
  return QueueOutcome::kBroken;
}

// A page in swap space comes back when it is accessed. A refresh makes no access, because it holds a
// claim meanwhile, and the driver may be waiting for an answer without a look at this page.
void Virtqueue::ReadBack(Reader& reader, const Area& area) {
  std::byte byte;
  for (Gfn page = GfnOf(area.gpa); GpaOf(page) < area.gpa + area.bytes; page += 1) {
    static_cast<void>(access_.Read(reader, GpaOf(page), {&byte, 1}));
  }
}

template <class Use>
QueueOutcome Virtqueue::In(Reader& reader, Area& area, const Use& use) {
  for (;;) {
    if (const CacheSection section = area.cache.Check(reader)) {
      // The driver has unplugged the memory of its ring.
      if (!memory_.IsRam(area.gpa, area.bytes)) return QueueOutcome::kBroken;
      use(section.data());
      if (area.access == Access::kWrite) section.MarkDirty();
      return QueueOutcome::kDone;
    }
    // A refresh would bring a page of it in.
    if (!memory_.IsRam(area.gpa, area.bytes)) return QueueOutcome::kBroken;
    if (const QueueOutcome valid = MakeValid(reader, area); valid != QueueOutcome::kDone) {
      return valid;
    }
  }
}

QueueOutcome Virtqueue::Pop(Reader& reader, std::span<Chain> chains, size_t& taken) {
  const uint16_t next = next_available_.load(kRelaxed);
  uint16_t ahead = 0;
  std::array<uint16_t, kMaxBatch> heads;
  taken = 0;
  const size_t most = std::min(chains.size(), kMaxBatch);
  const QueueOutcome looked = In(reader, available_, [&](std::byte* area) {
    // Acquire: pairs with the driver's store of the index, which follows its stores of the heads and
    // of the descriptors. Without it: the device takes a head that the driver is about to write.
    ahead = static_cast<uint16_t>(WordAt<uint16_t>(area, kRingIndex).load(kAcquire) - next);
    for (uint16_t i = 0; i < ahead && i < most; ++i) {
      heads[i] = WordAt<uint16_t>(area, layout_.head_offset(static_cast<uint16_t>(next + i)))
                     .load(kRelaxed);
    }
  });
  if (looked != QueueOutcome::kDone) return looked;
  if (ahead == 0) return QueueOutcome::kEmpty;
  if (ahead > layout_.size) return QueueOutcome::kBroken;
  const size_t count = std::min<size_t>(most, ahead);
  std::array<Copied, kMaxBatch> copied;
  const QueueOutcome copies = In(reader, descriptors_, [&](std::byte* area) {
    size_t at = 0;
    for (size_t i = 0; i < count; ++i) {
      copied[i] = CopyChain(area, heads[i], at);
      at = copied[i].end;
    }
  });
  if (copies != QueueOutcome::kDone) return copies;
  size_t begin = 0;
  for (size_t i = 0; i < count; ++i) {
    auto descriptors = std::span<const Descriptor>(copied_).subspan(begin, copied[i].end - begin);
    begin = copied[i].end;
    QueueOutcome checked = copied[i].whole ? QueueOutcome::kDone : QueueOutcome::kBroken;
    if (copied[i].whole && copied[i].names_table) checked = Expand(reader, descriptors);
    if (checked == QueueOutcome::kDone) checked = Check(descriptors, chains[i]);
    if (checked != QueueOutcome::kDone && i == 0) return checked;
    if (checked != QueueOutcome::kDone) break;
    chains[i].head = heads[i];
    taken = i + 1;
  }
  next_available_.store(static_cast<uint16_t>(next + taken), kRelaxed);
  held_ += taken;
  return QueueOutcome::kDone;
}

// Copies the chain to copied_, from `begin` on. A chain without a loop has at most as many descriptors as
// its table. A section contains this, so no more than kMaxBatchDescriptors are copied for the chains
// after the first one: such a chain does not end, and is looked at again by the next Pop.
Virtqueue::Copied Virtqueue::CopyChain(std::byte* area, uint16_t head, size_t begin) {
  const uint16_t size = layout_.size;
  const size_t most = std::min<size_t>(begin + size, kMaxBatchDescriptors);
  size_t end = begin;
  unsigned flags = 0;  // of all of them
  const auto copied = [&](bool whole) {
    return Copied{static_cast<uint16_t>(end), whole, (flags & Descriptor::kIndirect) != 0};
  };
  for (uint16_t at = head; at < size && end < most;) {
    const uint64_t offset = at * sizeof(Descriptor);
    // Relaxed: the index has ordered them. A driver that changes them now gets any mixture.
    const auto descriptor = std::bit_cast<Descriptor>(
        std::array{WordAt<uint64_t>(area, offset).load(kRelaxed),
                   WordAt<uint64_t>(area, offset + sizeof(uint64_t)).load(kRelaxed)});
    copied_[end++] = descriptor;
    flags |= descriptor.flags;
    if ((descriptor.flags & Descriptor::kNext) == 0) return copied(true);
    at = descriptor.next;
  }
  return copied(false);
}

// Only the last descriptor of a chain may name a table. Its descriptors take the place of that one.
QueueOutcome Virtqueue::Expand(Reader& reader, std::span<const Descriptor>& chain) {
  const auto is_table = [](const Descriptor& d) { return (d.flags & Descriptor::kIndirect) != 0; };
  const auto table = std::find_if(chain.begin(), chain.end(), is_table);
  if (!indirect_ || std::next(table) != chain.end()) return QueueOutcome::kBroken;
  expanded_.assign(chain.begin(), table);
  const QueueOutcome read = CopyIndirect(reader, *table);
  chain = expanded_;
  return read;
}

QueueOutcome Virtqueue::CopyIndirect(Reader& reader, const Descriptor& table) {
  const uint64_t entries = table.bytes / sizeof(Descriptor);
  if (table.bytes % sizeof(Descriptor) != 0 || entries == 0 || entries > kMaxIndirect ||
      !memory_.IsRam({table.gpa}, table.bytes)) {
    return QueueOutcome::kBroken;
  }
  indirect_table_.resize(entries);
  // The table is no part of the ring and is read once, so it has no cache. The read waits by itself
  // for memory that is away, and fails if its page cannot be brought in.
  if (!access_.Read(reader, {table.gpa}, std::as_writable_bytes(std::span(indirect_table_))).ok()) {
    return QueueOutcome::kBroken;
  }
  uint64_t at = 0;
  for (uint64_t n = 0; n < entries && at < entries; ++n) {
    const Descriptor& descriptor = indirect_table_[at];
    if ((descriptor.flags & Descriptor::kIndirect) != 0) return QueueOutcome::kBroken;
    expanded_.push_back(descriptor);
    if ((descriptor.flags & Descriptor::kNext) == 0) return QueueOutcome::kDone;
    at = descriptor.next;
  }
  return QueueOutcome::kBroken;
}

QueueOutcome Virtqueue::Check(std::span<const Descriptor> descriptors, Chain& chain) const {
  const auto device_writes = [](const Descriptor& d) {
    return (d.flags & Descriptor::kDeviceWrites) != 0;
  };
  size_t reads = 0;
  while (reads < descriptors.size() && !device_writes(descriptors[reads])) ++reads;
  // As a rule a chain has as many buffers as the one before it.
  chain.readable.resize(reads);
  chain.writable.resize(descriptors.size() - reads);
  uint64_t readable_bytes = 0;
  uint64_t writable_bytes = 0;
  for (size_t i = 0; i < descriptors.size(); ++i) {
    const Descriptor& descriptor = descriptors[i];
    const Buffer buffer{{descriptor.gpa}, descriptor.bytes};
    if (!memory_.IsRam(buffer.gpa, buffer.bytes)) return QueueOutcome::kBroken;
    if (i < reads) {
      chain.readable[i] = buffer;
      readable_bytes += buffer.bytes;
      continue;
    }
    // Section 2.7.4.2: what the device writes comes after what it reads.
    if (!device_writes(descriptor)) return QueueOutcome::kBroken;
    chain.writable[i - reads] = buffer;
    writable_bytes += buffer.bytes;
  }
  chain.readable_bytes = readable_bytes;
  chain.writable_bytes = writable_bytes;
  return readable_bytes + writable_bytes > kMaxChainBytes ? QueueOutcome::kBroken
                                                          : QueueOutcome::kDone;
}

QueueOutcome Virtqueue::Publish(Reader& reader, std::span<const Answer> answers) {
  const uint16_t next = next_used_.load(kRelaxed);
  const auto after = static_cast<uint16_t>(next + answers.size());
  const QueueOutcome published = In(reader, used_, [&](std::byte* area) {
    for (uint16_t i = 0; i < answers.size(); ++i) {
      const uint64_t element = layout_.element_offset(static_cast<uint16_t>(next + i));
      // Section 2.7.9: in order, one element stands for a run of answers. It lies in the place of the
      // first one and names the last one. The driver takes the others for written whole.
      while (in_order_ && answers[i].whole && i + 1u < answers.size()) ++i;
      WordAt<uint32_t>(area, element + offsetof(UsedElement, head))
          .store(answers[i].head, kRelaxed);
      WordAt<uint32_t>(area, element + offsetof(UsedElement, written))
          .store(answers[i].written, kRelaxed);
    }
    // Pairs with the driver's load of the index, before its loads of the elements and of the
    // payload; and, as a store before a load, with the driver's store of its used event before its
    // load of the index (WantsInterrupt). Without it: the driver takes an old element; or it waits
    // for an interrupt that the device has decided not to raise.
    WordAt<uint16_t>(area, kRingIndex).exchange(after, kStoreLoad);
  });
  if (published != QueueOutcome::kDone) return published;
  next_used_.store(after, kRelaxed);
  held_ -= answers.size();
  return QueueOutcome::kDone;
}

bool Virtqueue::WantsInterrupt(Reader& reader) {
  bool wants = true;
  const auto published = next_used_.load(kRelaxed);
  const QueueOutcome looked = In(reader, available_, [&](std::byte* area) {
    if (event_index_) {
      const auto event = WordAt<uint16_t>(area, layout_.used_event_offset()).load(kStoreLoad);
      wants = PassesEvent(event, published, judged_used_);
    } else {
      wants = (WordAt<uint16_t>(area, kRingFlags).load(kStoreLoad) & kNoInterrupt) == 0;
    }
  });
  judged_used_ = published;
  return looked != QueueOutcome::kDone || wants;
}

QueueOutcome Virtqueue::EnableKicks(Reader& reader) {
  const uint16_t next = next_available_.load(kRelaxed);
  if (event_index_) {
    // Store-buffering pair with the driver, which stores its index and then loads this word.
    // Without it: the driver sends no notification, and the device sleeps.
    const QueueOutcome asked = In(reader, used_, [&](std::byte* area) {
      WordAt<uint16_t>(area, layout_.avail_event_offset()).exchange(next, kStoreLoad);
    });
    if (asked != QueueOutcome::kDone) return asked;
  }
  uint16_t index = 0;
  const QueueOutcome looked = In(reader, available_, [&](std::byte* area) {
    index = WordAt<uint16_t>(area, kRingIndex).load(kStoreLoad);
  });
  if (looked != QueueOutcome::kDone) return looked;
  return index == next ? QueueOutcome::kEmpty : QueueOutcome::kDone;
}

}  // namespace underfoot::virtio
