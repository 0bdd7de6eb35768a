#include "vmm/devices/virtio/mem.h"

#include <linux/virtio_ids.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "vmm/base/monotonic.h"

namespace underfoot::virtio {
namespace {

constexpr absl::Duration kPause = absl::Milliseconds(1);

}  // namespace

Mem::Mem(const GuestMemory& memory, const DirectRequests& requests, GiveBack::Discard discard,
         absl::Duration patience)
    : memory_(memory),
      blocks_(*memory.hotplug()),
      requests_(requests),
      give_back_(std::move(discard), memory.huge_pages()),
      patience_(patience) {
  changed_.Note();
}

uint32_t Mem::device_id() const { return VIRTIO_ID_MEM; }

uint64_t Mem::features() const { return uint64_t{1} << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE; }

absl::Status Mem::SetRequested(uint64_t bytes) {
  if (bytes > blocks_.bytes()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes of plugged memory: this machine has room for %d bytes; ask for "
                        "less, or start it with more --hotplug-memory",
                        bytes, blocks_.bytes()));
  }
  if (bytes % kHotplugBlockBytes != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes of plugged memory are not a whole number of blocks of %d bytes",
                        bytes, kHotplugBlockBytes));
  }
  requested_.store(bytes, kRelease);
  generation_.fetch_add(1, kRelease);
  changed_.Note();
  ConfigChanged();
  return absl::OkStatus();
}

HotplugStats Mem::Stats() const {
  const uint64_t requested = requested_.load(kRelaxed);
  const uint64_t plugged = blocks_.plugged_bytes();
  return {.region_bytes = blocks_.bytes(),
          .requested_bytes = requested,
          .plugged_bytes = plugged,
          .plugged = plugged_.Get(),
          .unplugged = unplugged_.Get(),
          .waits = waits_.Get(),
          .busy = busy_.Get(),
          .refused = refused_.Get(),
          .kept = kept_.Get(),
          .idle_us = changed_.IdleUs(plugged == requested)};
}

void Mem::ReadConfig(uint64_t offset, std::span<std::byte> data) const {
  virtio_mem_config config{};
  config.block_size = kHotplugBlockBytes;
  config.addr = blocks_.begin().value;
  config.region_size = blocks_.bytes();
  config.usable_region_size = blocks_.bytes();
  config.plugged_size = blocks_.plugged_bytes();
  config.requested_size = requested_.load(kAcquire);
  CopyConfig(std::as_bytes(std::span(&config, 1)), offset, data);
}

Served Mem::Serve(Request& request) {
  virtio_mem_req asked{};
  if (request.readable_bytes() < sizeof(asked) ||
      request.writable_bytes() < sizeof(virtio_mem_resp) ||
      !request.Read(0, std::as_writable_bytes(std::span(&asked, 1)))) {
    return {.answered = false};
  }
  if (!done_.has_value()) {
    const virtio_mem_resp response = CarryOut(asked, request);
    if (request.abandoned()) return {};
    done_ = response;
  }
  const bool written = request.Write(0, std::as_bytes(std::span(&*done_, 1)));
  done_.reset();
  return {.written = sizeof(virtio_mem_resp), .answered = written};
}

virtio_mem_resp Mem::CarryOut(const virtio_mem_req& asked, Request& request) {
  virtio_mem_resp response{};
  response.type = VIRTIO_MEM_RESP_ERROR;
  // Blocks that a Serve of this request has left. What the driver has written over its request since does not
  // count.
  if (!unplugging_.empty()) {
    response.type = FinishUnplug(request);
    return response;
  }
  const auto blocks = BlocksAt(asked.u.plug.addr, asked.u.plug.nb_blocks);
  switch (asked.type) {
    case VIRTIO_MEM_REQ_PLUG:
      if (blocks.has_value()) response.type = Plug(*blocks, request);
      break;
    case VIRTIO_MEM_REQ_UNPLUG:
      if (blocks.has_value() && PluggedIn(*blocks) == blocks->count) {
        response.type = Unplug({*blocks}, request);
      }
      break;
    case VIRTIO_MEM_REQ_UNPLUG_ALL:
      response.type = UnplugAll(request);
      break;
    case VIRTIO_MEM_REQ_STATE:
      if (blocks.has_value()) {
        const size_t plugged = PluggedIn(*blocks);
        response.type = VIRTIO_MEM_RESP_ACK;
        response.u.state.state = plugged == blocks->count ? VIRTIO_MEM_STATE_PLUGGED
                                 : plugged == 0           ? VIRTIO_MEM_STATE_UNPLUGGED
                                                          : VIRTIO_MEM_STATE_MIXED;
      }
      break;
    default:
      break;
  }
  if (request.abandoned()) return response;
  if (response.type == VIRTIO_MEM_RESP_BUSY) busy_.Add();
  if (response.type == VIRTIO_MEM_RESP_ERROR || response.type == VIRTIO_MEM_RESP_NACK) {
    refused_.Add();
    request.counters().errors.Add();
  }
  return response;
}

std::optional<Mem::Blocks> Mem::BlocksAt(uint64_t gpa, uint16_t count) const {
  const uint64_t begin = blocks_.begin().value;
  if (count == 0 || gpa < begin || gpa - begin >= blocks_.bytes() ||
      (gpa - begin) % kHotplugBlockBytes != 0) {
    return std::nullopt;
  }
  const Blocks blocks{(gpa - begin) / kHotplugBlockBytes, count};
  if (blocks.count > blocks_.count() - blocks.first) return std::nullopt;
  return blocks;
}

size_t Mem::PluggedIn(const Blocks& blocks) const {
  size_t plugged = 0;
  for (size_t i = 0; i < blocks.count; ++i) plugged += blocks_.is_plugged(blocks.first + i) ? 1 : 0;
  return plugged;
}

HvaRange Mem::HvasOf(const Blocks& blocks) const {
  const Hva begin =
      memory_.hvas().begin + (blocks_.begin().value + blocks.first * kHotplugBlockBytes);
  return {begin, begin + blocks.count * kHotplugBlockBytes};
}

// A guest that has touched the blocks, or an access that was under way when they were unplugged, may have
// left pages there.
uint16_t Mem::Plug(const Blocks& blocks, Request& request) {
  if (blocks_.plugged_bytes() + blocks.count * kHotplugBlockBytes > requested_.load(kAcquire)) {
    return VIRTIO_MEM_RESP_NACK;
  }
  if (PluggedIn(blocks) != 0) return VIRTIO_MEM_RESP_ERROR;
  Give(blocks, request);
  if (request.abandoned()) return VIRTIO_MEM_RESP_BUSY;  // nobody reads it
  blocks_.Set(blocks.first, blocks.count, true);
  plugged_.Add(blocks.count);
  changed_.Note();
  return VIRTIO_MEM_RESP_ACK;
}

// All or nothing: `runs` are plugged. They stay plugged while a request is announced over them, so that other
// devices go on. If the driver gives the request up after that, the blocks are unplugged; what is left of
// their content goes when they are plugged again.
uint16_t Mem::Unplug(std::vector<Blocks> runs, Request& request) {
  const absl::Duration end = MonotonicNow() + patience_;
  while (AnnouncedOver(runs) || !TryMarkUnplugged(runs)) {
    if (!WaitUntilWithdrawn(runs, end, request)) return VIRTIO_MEM_RESP_BUSY;
  }
  unplugging_ = std::move(runs);
  return FinishUnplug(request);
}

// hotplug_blocks.h has the reason for the order. A request that is announced between the two steps finds its
// block away for a moment.
bool Mem::TryMarkUnplugged(std::span<const Blocks> runs) {
  for (const Blocks& run : runs) blocks_.Set(run.first, run.count, false);
  const bool busy = AnnouncedOver(runs);
  if (busy) {
    for (const Blocks& run : runs) blocks_.Set(run.first, run.count, true);
  }
  return !busy;
}

// True: worth another try. False: the time is over, or the driver has given the request up.
bool Mem::WaitUntilWithdrawn(std::span<const Blocks> runs, absl::Duration end, Request& request) {
  waits_.Add();
  do {
    if (request.abandoned() || MonotonicNow() >= end) return false;
    absl::SleepFor(kPause);
  } while (AnnouncedOver(runs));
  return true;
}

bool Mem::AnnouncedOver(std::span<const Blocks> runs) const {
  return std::any_of(runs.begin(), runs.end(),
                     [this](const Blocks& run) { return requests_.AnnouncedOver(HvasOf(run)); });
}

// If it throws, the next call discards all of them: to discard a block twice changes nothing.
uint16_t Mem::FinishUnplug(Request& request) {
  size_t count = 0;
  for (const Blocks& run : unplugging_) {
    Give(run, request);
    count += run.count;
  }
  unplugging_.clear();
  unplugged_.Add(count);
  changed_.Note();
  return VIRTIO_MEM_RESP_ACK;
}

uint16_t Mem::UnplugAll(Request& request) {
  std::vector<Blocks> runs;
  for (size_t block = 0; block < blocks_.count(); ++block) {
    if (!blocks_.is_plugged(block)) continue;
    if (runs.empty() || runs.back().first + runs.back().count != block) runs.push_back({block, 0});
    ++runs.back().count;
  }
  return Unplug(std::move(runs), request);
}

void Mem::Give(const Blocks& blocks, Request& request) {
  give_back_(HvasOf(blocks), request, [this](HvaRange piece, bool gone) {
    if (!gone) kept_.Add(piece.size() / kHotplugBlockBytes);
  });
}

}  // namespace underfoot::virtio
