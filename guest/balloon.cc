#include "guest/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include "guest/barrier.h"
#include "guest/stamp.h"
#include "guest/virtio.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kReportingFeature = uint64_t{1} << VIRTIO_BALLOON_F_REPORTING;
constexpr uint64_t kStatisticsFeature = uint64_t{1} << VIRTIO_BALLOON_F_STATS_VQ;
constexpr uint64_t kAreaBytes = 1024;               // of the three areas of a queue in its page
constexpr uint64_t kFramesOffset = 3 * kAreaBytes;  // of the frame numbers, behind them
constexpr uint32_t kRoundsBetweenReports = 64;

// Of this driver. The queues that it uses have numbers without gaps, so that of the reports depends on
// whether the device has a queue of statistics.
enum Queue : uint64_t { kInflate = 0, kDeflate = 1, kStatistics = 2, kReporting = 3 };
constexpr uint64_t kQueues = 4;

// What the guest reports about its memory; as many bytes as whole words.
constexpr uint64_t kStatistic = 4;
union Statistics {
  virtio_balloon_stat entries[kStatistic];
  uint64_t words[kStatistic * sizeof(virtio_balloon_stat) / 8];
};
static_assert(sizeof(Statistics) == kStatistic * sizeof(virtio_balloon_stat));

struct Balloon {
  bool present;
  bool reports;
  bool statistics;
  bool busy;
  bool lost;
  Queue queue;  // of the request that is under way
  uint64_t pages;
  uint64_t inflated;  // chunks
  uint64_t inflated_pages;
  uint32_t rounds_to_report;
  Virtqueue rings[kQueues];
};
constinit Balloon balloon{};

uint64_t Target() {
  return Load32(balloon.rings[0].registers() + VIRTIO_MMIO_CONFIG +
                __builtin_offsetof(virtio_balloon_config, num_pages));
}

void TellActual() {
  Store32(balloon.rings[0].registers() + VIRTIO_MMIO_CONFIG +
              __builtin_offsetof(virtio_balloon_config, actual),
          static_cast<uint32_t>(balloon.inflated_pages));
}

void Submit(Queue queue, uint64_t gpa, uint64_t bytes, uint16_t flags) {
  balloon.rings[queue].SetDescriptor(0, gpa, static_cast<uint32_t>(bytes), flags, 0);
  balloon.rings[queue].Offer(0);
  balloon.queue = queue;
  balloon.busy = true;
}

// The numbers of the frames of a chunk, the last one first, two in a word.
void SubmitFrames(Queue queue, const LentChunk& chunk) {
  const uint64_t frames = balloon.pages + queue * kPageBytes + kFramesOffset;
  const uint64_t last = chunk.gpa / kPageBytes + chunk.pages - 1;
  for (uint64_t i = 0; i < chunk.pages; i += 2) {
    Store(frames + 4 * i, (last - i) | (last - i - 1) << 32);
  }
  Submit(queue, frames, 4 * chunk.pages, 0);
}

// The device keeps the buffer until the host wants new values.
void OfferStatistics(Context& context) {
  Statistics statistics{};
  const auto set = [&](uint64_t i, uint16_t tag, uint64_t value) {
    statistics.entries[i].tag = tag;
    statistics.entries[i].val = value;
  };
  // It swaps nothing, and has no pages to spare: what is not in the balloon is in use. Memory that it has
  // plugged is not counted.
  set(0, VIRTIO_BALLOON_S_MEMTOT, context.boot.memory_bytes);
  set(1, VIRTIO_BALLOON_S_MEMFREE, 0);
  set(2, VIRTIO_BALLOON_S_AVAIL, context.boot.memory_bytes - balloon.inflated_pages * kPageBytes);
  set(3, VIRTIO_BALLOON_S_SWAP_OUT, 0);
  const uint64_t buffer = balloon.pages + kStatistics * kPageBytes + kFramesOffset;
  for (uint64_t i = 0; i < sizeof(statistics) / 8; ++i) Store(buffer + 8 * i, statistics.words[i]);
  balloon.rings[kStatistics].SetDescriptor(0, buffer, sizeof(statistics), 0, 0);
  balloon.rings[kStatistics].Offer(0);
}

void TakeStatistics(Context& context) {
  if (!balloon.statistics) return;
  Virtqueue& ring = balloon.rings[kStatistics];
  const Virtqueue::Answer answer = ring.Take();
  if (!answer.any) return;
  if (answer.head != 0) {
    DeviceMismatch(context, ring.registers(), DeviceStep::kHead, 0, answer.head);
  }
  if (answer.written != 0) {
    DeviceMismatch(context, ring.registers(), DeviceStep::kWritten, 0, answer.written);
  }
  Add(context.report.device_requests, 1);
  OfferStatistics(context);
}

void Begin(Context& context) {
  const uint64_t target = Target();
  LentChunk chunk{};
  if (target >= balloon.inflated_pages + kChunkPages && LendChunk(context, &chunk)) {
    return SubmitFrames(kInflate, chunk);
  }
  if (target < balloon.inflated_pages) {
    return SubmitFrames(kDeflate, LastLent(context));
  }
  if (!balloon.reports || balloon.rounds_to_report-- != 0) return;
  balloon.rounds_to_report = kRoundsBetweenReports;
  if (!LendChunk(context, &chunk)) return;
  Submit(kReporting, chunk.gpa, chunk.pages * kPageBytes, Virtqueue::kDeviceWrites);
}

bool TakeAnswer(Context& context) {
  Virtqueue& ring = balloon.rings[balloon.queue];
  const Virtqueue::Answer answer = ring.Take();
  if (!answer.any) return false;
  balloon.busy = false;
  if (answer.head != 0) {
    DeviceMismatch(context, ring.registers(), DeviceStep::kHead, 0, answer.head);
  }
  if (answer.written != 0) {
    DeviceMismatch(context, ring.registers(), DeviceStep::kWritten, 0, answer.written);
  }
  const LentChunk chunk = LastLent(context);
  switch (balloon.queue) {
    case kInflate:
      ++balloon.inflated;
      balloon.inflated_pages += chunk.pages;
      TellActual();
      break;
    case kDeflate:
      --balloon.inflated;
      balloon.inflated_pages -= chunk.pages;
      TakeChunkBack(context);
      TellActual();
      break;
    case kReporting:
      TakeChunkBack(context);
      break;
    case kStatistics:
      break;  // TakeStatistics has it
  }
  Add(context.report.device_requests, 1);
  return true;
}

bool Works(Context& context) {
  const uint64_t registers = balloon.rings[0].registers();
  const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
  if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) return true;
  balloon.lost = true;
  DeviceMismatch(context, registers, DeviceStep::kNoAnswer, 0, status);
  return false;
}

void WaitForAnswer(Context& context) {
  Spinner spinner(context);
  for (uint64_t looks = 1; balloon.busy && !balloon.lost; ++looks) {
    if (TakeAnswer(context)) return;
    spinner.Wait();
    if (looks % Virtqueue::kLooks == 0) Works(context);
  }
}

}  // namespace

void SetUpBalloon(Context& context, uint64_t pages) {
  const uint64_t registers = FindDevice(context.boot, VIRTIO_ID_BALLOON);
  if (registers == 0) return;
  const uint64_t accepted = Negotiate(registers, kReportingFeature | kStatisticsFeature);
  if (accepted == 0) return DeviceMismatch(context, registers, DeviceStep::kFeatures, 1, 0);
  balloon.pages = pages;
  // Visits are compared with the working set of the host. In rare cases a page that was reported comes
  // back without a visit (mmu/LOCKING.md, "An installer need not start again").
  balloon.reports = (accepted & kReportingFeature) != 0 && context.boot.keep_visits == 0;
  balloon.statistics = (accepted & kStatisticsFeature) != 0;
  uint64_t number = 0;
  for (uint64_t queue = 0; queue < kQueues; ++queue) {
    if (queue == kStatistics && !balloon.statistics) continue;
    if (queue == kReporting && !balloon.reports) continue;
    if (!balloon.rings[queue].Place(registers, number++, pages + queue * kPageBytes, kAreaBytes)) {
      return DeviceMismatch(context, registers, DeviceStep::kQueue, queue, 0);
    }
  }
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  balloon.present = Works(context);
  if (balloon.present && balloon.statistics) OfferStatistics(context);
}

void BalloonRound(Context& context) {
  if (!balloon.present || balloon.lost) return;
  TakeStatistics(context);
  if (balloon.busy && !TakeAnswer(context)) return;
  Begin(context);
}

void FinishBalloon(Context& context) {
  if (!balloon.present) return;
  WaitForAnswer(context);
  while (balloon.inflated != 0 && !balloon.lost) {
    SubmitFrames(kDeflate, LastLent(context));
    WaitForAnswer(context);
  }
}

}  // namespace underfoot::guest
