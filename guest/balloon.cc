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
constexpr uint64_t kAreaBytes = 1024;               // of the three areas of a queue in its page
constexpr uint64_t kFramesOffset = 3 * kAreaBytes;  // of the frame numbers, behind them
constexpr uint32_t kRoundsBetweenReports = 64;

enum Queue : uint64_t { kInflate = 0, kDeflate = 1, kReporting = 2 };

struct Balloon {
  bool present;
  bool reports;
  bool busy;
  bool lost;
  Queue queue;  // of the request that is under way
  uint64_t pages;
  uint64_t inflated;  // chunks
  uint64_t inflated_pages;
  uint32_t rounds_to_report;
  Virtqueue rings[3];
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
  const uint64_t accepted = Negotiate(registers, kReportingFeature);
  if (accepted == 0) return DeviceMismatch(context, registers, DeviceStep::kFeatures, 1, 0);
  balloon.pages = pages;
  // Visits are compared with the working set of the host. In rare cases a page that was reported comes
  // back without a visit (mmu/LOCKING.md, "An installer need not start again").
  balloon.reports = (accepted & kReportingFeature) != 0 && context.boot.keep_visits == 0;
  for (uint64_t queue = 0; queue < (balloon.reports ? 3 : 2); ++queue) {
    if (!balloon.rings[queue].Place(registers, queue, pages + queue * kPageBytes, kAreaBytes)) {
      return DeviceMismatch(context, registers, DeviceStep::kQueue, queue, 0);
    }
  }
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  balloon.present = Works(context);
}

void BalloonRound(Context& context) {
  if (!balloon.present || balloon.lost) return;
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
