#include "guest/hotplug.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mem.h>
#include <linux/virtio_mmio.h>

#include "guest/barrier.h"
#include "guest/stamp.h"
#include "guest/virtio.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kInaccessibleFeature = uint64_t{1} << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
constexpr uint64_t kAreaBytes = 1024;  // of the three areas of the queue in its page
constexpr uint64_t kRequestOffset = 3 * kAreaBytes;
constexpr uint64_t kResponseOffset = kRequestOffset + 64;
constexpr uint32_t kRequestBytes = sizeof(virtio_mem_req);
constexpr uint32_t kResponseBytes = sizeof(virtio_mem_resp);
static_assert(kRequestBytes == 24 && kResponseBytes == 10);

constexpr uint64_t kBlockBytes = uint64_t{2} << 20;
constexpr uint64_t kSliceBytes = kChunkPages * kPageBytes;
constexpr uint64_t kSlices = kBlockBytes / kSliceBytes;  // of a block
constexpr uint64_t kMostBlocks = abi::kMaxHotplugBytes / kBlockBytes;
constexpr uint64_t kMostAtOnce = 4;  // blocks of a request
// A mixed round of vCPU 0 has several rounds of this driver.
constexpr uint64_t kRoundsBetweenVisits = 1;
constexpr uint64_t kVisitsBetweenCycles = 4;

enum class Wanted : uint8_t {
  kPlug,
  kUnplug,
  kUnplugAll,
  kState,
  kRefusedPlug,    // of a block that is plugged
  kRefusedUnplug,  // of one that is not, or of one behind the region
};

struct Request {
  Wanted wanted;
  uint64_t first;
  uint64_t count;
};

struct Hotplug {
  bool present;
  bool busy;
  bool lost;
  Virtqueue ring;
  uint64_t page;
  uint64_t begin;  // gpa of the region
  uint64_t blocks;
  uint64_t plugged;
  uint32_t generation;  // of the configuration, before the request was chosen
  bool was_wanted;      // the host has asked for a block
  bool has_plugged;
  uint64_t rounds_to_visit;
  uint64_t visits_to_cycle;
  Request request;
  bool is_plugged[kMostBlocks];
  uint32_t notes[kMostBlocks * kSlices];
};
constinit Hotplug hotplug{};

uint64_t ConfigWord(uint64_t offset) {
  const uint64_t at = hotplug.ring.registers() + VIRTIO_MMIO_CONFIG + offset;
  return Load32(at) | uint64_t{Load32(at + 4)} << 32;
}

uint32_t ConfigGeneration() {
  return Load32(hotplug.ring.registers() + VIRTIO_MMIO_CONFIG_GENERATION);
}

// The size that the host asks for, in blocks of the region. The two halves of the size are of the same
// time if the generation is.
uint64_t Target() {
  for (;;) {
    const uint32_t generation = ConfigGeneration();
    const uint64_t wanted =
        ConfigWord(__builtin_offsetof(virtio_mem_config, requested_size)) / kBlockBytes;
    if (ConfigGeneration() == generation) return wanted < hotplug.blocks ? wanted : hotplug.blocks;
  }
}

OtherPages SliceOf(uint64_t block, uint64_t slice) {
  return {hotplug.begin + block * kBlockBytes + slice * kSliceBytes, kChunkPages,
          &hotplug.notes[block * kSlices + slice]};
}

// Each of its pages, for the last time. The host sees the guest get on.
void FinishBlock(Context& context, uint64_t block) {
  Add(context.report.pages_owned, kBlockBytes / kPageBytes);
  for (uint64_t slice = 0; slice < kSlices; ++slice) {
    VerifyOther(context, SliceOf(block, slice));
    Add(context.report.final_checked, kChunkPages);
  }
}

// The first block from a random one on that is plugged, or is not; `blocks`: there is none.
uint64_t FindBlock(Context& context, bool plugged) {
  const uint64_t start = context.random.Below(hotplug.blocks);
  for (uint64_t i = 0; i < hotplug.blocks; ++i) {
    const uint64_t block = start + i < hotplug.blocks ? start + i : start + i - hotplug.blocks;
    if (hotplug.is_plugged[block] == plugged) return block;
  }
  return hotplug.blocks;
}

// From `first` on, blocks of the same state; at most `most` and kMostAtOnce.
uint64_t RunFrom(uint64_t first, uint64_t most) {
  uint64_t count = 1;
  while (count < most && count < kMostAtOnce && first + count < hotplug.blocks &&
         hotplug.is_plugged[first + count] == hotplug.is_plugged[first]) {
    ++count;
  }
  return count;
}

uint64_t TypeOf(Wanted wanted) {
  switch (wanted) {
    case Wanted::kPlug:
    case Wanted::kRefusedPlug:
      return VIRTIO_MEM_REQ_PLUG;
    case Wanted::kUnplug:
    case Wanted::kRefusedUnplug:
      return VIRTIO_MEM_REQ_UNPLUG;
    case Wanted::kUnplugAll:
      return VIRTIO_MEM_REQ_UNPLUG_ALL;
    case Wanted::kState:
      return VIRTIO_MEM_REQ_STATE;
  }
  return VIRTIO_MEM_REQ_STATE;
}

// What was written to the blocks that go is verified first: it is read for the last time. The rest, which
// is zeroes, is left to the visits, since each page of it would have to be brought in.
void Submit(Context& context, Wanted wanted, uint64_t first, uint64_t count) {
  const bool all = wanted == Wanted::kUnplugAll;
  if (wanted == Wanted::kUnplug || all) {
    for (uint64_t block = first; block < first + count; ++block) {
      for (uint64_t slice = 0; hotplug.is_plugged[block] && slice < kSlices; ++slice) {
        if (IsWritten(SliceOf(block, slice))) VerifyOther(context, SliceOf(block, slice));
      }
    }
  }
  const uint64_t request = hotplug.page + kRequestOffset;
  const uint64_t response = hotplug.page + kResponseOffset;
  Store(request, TypeOf(wanted));
  Store(request + 8, all ? 0 : hotplug.begin + first * kBlockBytes);
  Store(request + 16, all ? 0 : count);
  Store(response, ~uint64_t{0});
  Store(response + 8, ~uint64_t{0});
  hotplug.ring.SetDescriptor(0, request, kRequestBytes, Virtqueue::kNext, 1);
  hotplug.ring.SetDescriptor(1, response, kResponseBytes, Virtqueue::kDeviceWrites, 0);
  hotplug.ring.Offer(0);
  hotplug.request = {wanted, first, count};
  hotplug.busy = true;
}

// The request that a driver makes of its own accord: most of them unplug something, which the next
// round plugs again.
void BeginCycle(Context& context) {
  const uint64_t draw = context.random.Below(8);
  const uint64_t plugged = FindBlock(context, true);
  const uint64_t unplugged = FindBlock(context, false);
  const bool none = plugged == hotplug.blocks;
  if (draw == 0 || none) return Submit(context, Wanted::kRefusedUnplug, unplugged, 1);
  if (draw == 1) return Submit(context, Wanted::kRefusedPlug, plugged, 1);
  if (draw == 2) return Submit(context, Wanted::kUnplugAll, 0, hotplug.blocks);
  if (draw == 3) {
    const uint64_t first = context.random.Below(hotplug.blocks);
    const uint64_t count = 1 + context.random.Below(hotplug.blocks - first);
    return Submit(context, Wanted::kState, first, count);
  }
  Submit(context, Wanted::kUnplug, plugged, RunFrom(plugged, hotplug.plugged));
}

void Visit(Context& context) {
  const uint64_t block = FindBlock(context, true);
  if (block == hotplug.blocks) return;
  const OtherPages slice = SliceOf(block, context.random.Below(kSlices));
  VerifyOther(context, slice);
  WriteOther(context, slice);
}

void Begin(Context& context) {
  hotplug.generation = ConfigGeneration();
  const uint64_t target = Target();
  hotplug.was_wanted = hotplug.was_wanted || target != 0;
  if (hotplug.plugged < target) {
    const uint64_t first = FindBlock(context, false);
    return Submit(context, Wanted::kPlug, first, RunFrom(first, target - hotplug.plugged));
  }
  if (hotplug.plugged > target) {
    const uint64_t first = FindBlock(context, true);
    return Submit(context, Wanted::kUnplug, first, RunFrom(first, hotplug.plugged - target));
  }
  if (hotplug.rounds_to_visit-- != 0) return;
  hotplug.rounds_to_visit = kRoundsBetweenVisits;
  if (hotplug.visits_to_cycle-- == 0) {
    hotplug.visits_to_cycle = kVisitsBetweenCycles;
    return BeginCycle(context);
  }
  Visit(context);
}

void SetPlugged(uint64_t first, uint64_t count, bool plugged) {
  for (uint64_t block = first; block < first + count; ++block) {
    if (hotplug.is_plugged[block] == plugged) continue;
    hotplug.is_plugged[block] = plugged;
    hotplug.plugged += plugged ? 1 : ~uint64_t{0};
    hotplug.has_plugged = hotplug.has_plugged || plugged;
    for (uint64_t slice = 0; !plugged && slice < kSlices; ++slice) NoteGone(SliceOf(block, slice));
  }
}

uint64_t ExpectedState(const Request& request) {
  uint64_t plugged = 0;
  for (uint64_t i = 0; i < request.count; ++i) {
    plugged += hotplug.is_plugged[request.first + i] ? 1 : 0;
  }
  return plugged == 0               ? VIRTIO_MEM_STATE_UNPLUGGED
         : plugged == request.count ? VIRTIO_MEM_STATE_PLUGGED
                                    : VIRTIO_MEM_STATE_MIXED;
}

void Complain(Context& context, uint64_t expected, uint64_t found) {
  DeviceMismatch(context, hotplug.ring.registers(), DeviceStep::kMemory, expected, found);
}

void Judge(Context& context, uint64_t answer, uint64_t state) {
  const Request& request = hotplug.request;
  switch (request.wanted) {
    case Wanted::kPlug:
      if (answer == VIRTIO_MEM_RESP_ACK) return SetPlugged(request.first, request.count, true);
      // The host may have asked for less meanwhile, and for more again: the generation tells. Between the
      // size and the generation of a change the size tells.
      if (answer == VIRTIO_MEM_RESP_NACK && (ConfigGeneration() != hotplug.generation ||
                                             Target() < hotplug.plugged + request.count)) {
        return;
      }
      return Complain(context, VIRTIO_MEM_RESP_ACK, answer);
    case Wanted::kUnplug:
    case Wanted::kUnplugAll:
      if (answer == VIRTIO_MEM_RESP_ACK) return SetPlugged(request.first, request.count, false);
      // No device has a buffer there.
      return Complain(context, VIRTIO_MEM_RESP_ACK, answer);
    case Wanted::kState:
      if (answer != VIRTIO_MEM_RESP_ACK) return Complain(context, VIRTIO_MEM_RESP_ACK, answer);
      if (state != ExpectedState(request)) Complain(context, ExpectedState(request), state);
      return;
    case Wanted::kRefusedPlug:
      if (answer == VIRTIO_MEM_RESP_NACK) return;  // it would be more than the host asks for
      [[fallthrough]];
    case Wanted::kRefusedUnplug:
      if (answer != VIRTIO_MEM_RESP_ERROR) Complain(context, VIRTIO_MEM_RESP_ERROR, answer);
      return;
  }
}

bool TakeAnswer(Context& context) {
  const Virtqueue::Answer answer = hotplug.ring.Take();
  if (!answer.any) return false;
  hotplug.busy = false;
  const uint64_t registers = hotplug.ring.registers();
  if (answer.head != 0) DeviceMismatch(context, registers, DeviceStep::kHead, 0, answer.head);
  const uint64_t written = answer.whole ? kResponseBytes : answer.written;
  if (written != kResponseBytes) {
    DeviceMismatch(context, registers, DeviceStep::kWritten, kResponseBytes, written);
  }
  const uint64_t response = hotplug.page + kResponseOffset;
  Judge(context, Load(response) & 0xffff, Load(response + 8) & 0xffff);
  Add(context.report.device_requests, 1);
  return true;
}

bool Works(Context& context) {
  const uint64_t registers = hotplug.ring.registers();
  const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
  if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) return true;
  hotplug.lost = true;
  DeviceMismatch(context, registers, DeviceStep::kNoAnswer, 0, status);
  return false;
}

}  // namespace

void SetUpHotplug(Context& context, uint64_t pages) {
  const uint64_t registers = FindDevice(context.boot, VIRTIO_ID_MEM);
  if (registers == 0) return;
  // The disk has the other one of the two ways.
  const bool in_order = context.boot.seed % 2 == 0;
  const uint64_t accepted =
      Negotiate(registers, kInaccessibleFeature | (in_order ? kInOrderFeature : 0));
  if ((accepted & kInaccessibleFeature) == 0) {
    return DeviceMismatch(context, registers, DeviceStep::kFeatures, kInaccessibleFeature,
                          accepted);
  }
  if (!hotplug.ring.Place(registers, 0, pages, kAreaBytes)) {
    return DeviceMismatch(context, registers, DeviceStep::kQueue, 0, 0);
  }
  if ((accepted & kInOrderFeature) != 0) hotplug.ring.TakeInOrder();
  hotplug.page = pages;
  hotplug.begin = ConfigWord(__builtin_offsetof(virtio_mem_config, addr));
  const uint64_t block_bytes = ConfigWord(__builtin_offsetof(virtio_mem_config, block_size));
  if (block_bytes != kBlockBytes) {
    return DeviceMismatch(context, registers, DeviceStep::kMemory, kBlockBytes, block_bytes);
  }
  const uint64_t blocks =
      ConfigWord(__builtin_offsetof(virtio_mem_config, usable_region_size)) / kBlockBytes;
  hotplug.blocks = blocks < kMostBlocks ? blocks : kMostBlocks;
  hotplug.visits_to_cycle = kVisitsBetweenCycles;
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  hotplug.present = Works(context) && hotplug.blocks != 0;
}

void HotplugRound(Context& context) {
  if (!hotplug.present || hotplug.lost) return;
  if (hotplug.busy && !TakeAnswer(context)) return;
  Begin(context);
}

void FinishHotplug(Context& context) {
  if (!hotplug.present) return;
  Spinner spinner(context);
  for (uint64_t looks = 1; hotplug.busy && !hotplug.lost; ++looks) {
    if (TakeAnswer(context)) break;
    spinner.Wait();
    if (looks % Virtqueue::kLooks == 0) Works(context);
  }
  for (uint64_t block = 0; block < hotplug.blocks; ++block) {
    if (hotplug.is_plugged[block]) FinishBlock(context, block);
  }
}

bool LacksMemory(const Context& context) {
  return context.vcpu == 0 && hotplug.was_wanted && !hotplug.has_plugged;
}

}  // namespace underfoot::guest
