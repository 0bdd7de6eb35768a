#include "guest/entropy.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include "guest/barrier.h"
#include "guest/virtio.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kWords = 64;
// A run with fewer bits is not judged; and no more are counted than the test below has room for.
constexpr uint64_t kFewBits = 10000;
constexpr uint64_t kMostBits = uint64_t{1} << 30;
// A device is wrong if the ones are this many standard deviations off: once in 10^15 runs.
constexpr uint64_t kDeviations = 8;

struct Entropy {
  bool present;
  bool busy;
  bool lost;
  Virtqueue ring;
  uint64_t data;
  uint64_t last;  // the last word of the answer before
  uint64_t bits;
  uint64_t ones;
};
constinit Entropy entropy{};

uint64_t Ones(uint64_t word) {
  uint64_t ones = 0;
  for (; word != 0; word &= word - 1) ++ones;
  return ones;
}

void Complain(Context& context, uint64_t word, uint64_t expected, uint64_t found) {
  Mismatch(context, {.gfn = entropy.ring.registers() / kPageBytes,
                     .word = word,
                     .expected = expected,
                     .found = found,
                     .kind = abi::MismatchKind::kNotRandom});
}

void Ask() {
  for (uint64_t i = 0; i < kWords; ++i) Store(entropy.data + 8 * i, 0);
  entropy.ring.SetDescriptor(0, entropy.data, kWords * 8, Virtqueue::kDeviceWrites, 0);
  entropy.ring.Offer(0);
  entropy.busy = true;
}

bool TakeAnswer(Context& context) {
  const Virtqueue::Answer answer = entropy.ring.Take();
  if (!answer.any) return false;
  entropy.busy = false;
  if (answer.head != 0) {
    DeviceMismatch(context, entropy.ring.registers(), DeviceStep::kHead, 0, answer.head);
  }
  if (answer.written != kWords * 8) {
    DeviceMismatch(context, entropy.ring.registers(), DeviceStep::kWritten, kWords * 8,
                   answer.written);
  }
  for (uint64_t i = 0; i < kWords; ++i) {
    const uint64_t word = Load(entropy.data + 8 * i);
    // Each happens once in 2^64 words.
    if (word == 0 || word == entropy.last) Complain(context, i, entropy.last, word);
    entropy.last = word;
    if (entropy.bits >= kMostBits) continue;
    entropy.bits += 64;
    entropy.ones += Ones(word);
  }
  Add(context.report.device_requests, 1);
  return true;
}

}  // namespace

void SetUpEntropy(Context& context, uint64_t pages) {
  const uint64_t registers = FindDevice(context.boot, VIRTIO_ID_RNG);
  if (registers == 0) return;
  if (Negotiate(registers, 0) == 0) {
    return DeviceMismatch(context, registers, DeviceStep::kFeatures, 1, 0);
  }
  if (!entropy.ring.Place(registers, 0, pages)) {
    return DeviceMismatch(context, registers, DeviceStep::kQueue, 1, 0);
  }
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
  if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0) {
    return DeviceMismatch(context, registers, DeviceStep::kRunning, 0, status);
  }
  entropy.data = pages + Virtqueue::kRingPages * kPageBytes;
  entropy.present = true;
}

void EntropyRound(Context& context) {
  if (!entropy.present || entropy.lost) return;
  if (entropy.busy && !TakeAnswer(context)) return;
  Ask();
}

// The last answer asks for an interrupt, and InterruptStatus has to show it: the device sets it
// after the used ring.
void FinishEntropy(Context& context) {
  if (!entropy.present) return;
  const uint64_t registers = entropy.ring.registers();
  if (!entropy.busy) Ask();
  Spinner spinner(context);
  bool interrupted = false;
  for (uint64_t looks = 1; (entropy.busy || !interrupted) && !entropy.lost; ++looks) {
    if (entropy.busy) TakeAnswer(context);
    spinner.Wait();
    if (entropy.busy && looks % Virtqueue::kLooks != 0) continue;
    interrupted = (Load32(registers + VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING) != 0;
    const uint32_t status = Load32(registers + VIRTIO_MMIO_STATUS);
    if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) continue;
    entropy.lost = true;
    DeviceMismatch(context, registers, DeviceStep::kNoAnswer, 0, status);
  }
  Store32(registers + VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  if (entropy.bits < kFewBits) return;
  // Twice the ones differ from the bits by about the root of the bits.
  const uint64_t twice = 2 * entropy.ones;
  const uint64_t off = twice > entropy.bits ? twice - entropy.bits : entropy.bits - twice;
  if (off * off > kDeviations * kDeviations * entropy.bits) {
    Complain(context, entropy.bits, entropy.bits / 2, entropy.ones);
  }
}

}  // namespace underfoot::guest
