#include "guest/terminal.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mmio.h>

#include "guest/barrier.h"
#include "guest/virtio.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kAreaBytes = 1024;  // of the three areas of a queue in its page
constexpr uint64_t kInputWords = 96;   // of the buffer for input
constexpr uint64_t kMostWords = 256;   // written at once

enum Queue : uint64_t { kInput = 0, kOutput = 1 };

struct Terminal {
  bool present;
  bool lost;
  bool writing;     // the output is not answered yet
  uint64_t data;    // the page of the output, and behind it the page of the input
  uint64_t serial;  // of the first word that was written last
  uint64_t words;   // written last
  uint64_t back;    // of them, have come back
  Virtqueue rings[2];
};
constinit Terminal terminal{};

uint64_t InputGpa() { return terminal.data + kPageBytes; }
bool Busy() { return terminal.writing || terminal.back != terminal.words; }
uint64_t WordAt(uint64_t serial) { return (serial + 1) * 0x9e3779b97f4a7c15; }

void OfferInput() {
  terminal.rings[kInput].SetDescriptor(0, InputGpa(), kInputWords * 8, Virtqueue::kDeviceWrites, 0);
  terminal.rings[kInput].Offer(0);
}

void Write(Context& context) {
  terminal.serial += terminal.words;
  terminal.words = 1 + context.random.Below(kMostWords);
  terminal.back = 0;
  for (uint64_t i = 0; i < terminal.words; ++i) {
    Store(terminal.data + 8 * i, WordAt(terminal.serial + i));
  }
  terminal.rings[kOutput].SetDescriptor(0, terminal.data, static_cast<uint32_t>(terminal.words * 8),
                                        0, 0);
  terminal.rings[kOutput].Offer(0);
  terminal.writing = true;
}

void Complain(Context& context, DeviceStep step, uint64_t expected, uint64_t found) {
  DeviceMismatch(context, terminal.rings[0].registers(), step, expected, found);
}

void TakeOutputAnswer(Context& context) {
  const Virtqueue::Answer answer = terminal.rings[kOutput].Take();
  if (!answer.any) return;
  terminal.writing = false;
  if (answer.head != 0) Complain(context, DeviceStep::kHead, 0, answer.head);
  if (answer.written != 0) Complain(context, DeviceStep::kWritten, 0, answer.written);
  Add(context.report.device_requests, 1);
}

// The machine passes on whole words as they were written, so each answer has whole words.
void TakeInput(Context& context) {
  const Virtqueue::Answer answer = terminal.rings[kInput].Take();
  if (!answer.any) return;
  if (answer.head != 0) Complain(context, DeviceStep::kHead, 0, answer.head);
  const uint64_t words = answer.written / 8;
  const uint64_t left = terminal.words - terminal.back;
  const uint64_t expected = left < kInputWords ? left : kInputWords;
  if (answer.written % 8 != 0 || words != expected) {
    Complain(context, DeviceStep::kWritten, expected * 8, answer.written);
    terminal.lost = true;
    return;
  }
  for (uint64_t i = 0; i < words; ++i) {
    const uint64_t wanted = WordAt(terminal.serial + terminal.back + i);
    const uint64_t found = Load(InputGpa() + 8 * i);
    if (found != wanted) Complain(context, DeviceStep::kEcho, wanted, found);
  }
  terminal.back += words;
  Add(context.report.device_requests, 1);
  OfferInput();
}

bool Works(Context& context) {
  const uint32_t status = Load32(terminal.rings[0].registers() + VIRTIO_MMIO_STATUS);
  if ((status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) return true;
  terminal.lost = true;
  Complain(context, DeviceStep::kNoAnswer, 0, status);
  return false;
}

void Take(Context& context) {
  TakeOutputAnswer(context);
  TakeInput(context);
}

}  // namespace

void SetUpTerminal(Context& context, uint64_t pages) {
  const uint64_t registers = FindDevice(context.boot, VIRTIO_ID_CONSOLE);
  if (registers == 0) return;
  if (Negotiate(registers, 0) == 0) {
    return DeviceMismatch(context, registers, DeviceStep::kFeatures, 1, 0);
  }
  for (uint64_t queue = kInput; queue <= kOutput; ++queue) {
    if (!terminal.rings[queue].Place(registers, queue, pages + queue * kPageBytes, kAreaBytes)) {
      return DeviceMismatch(context, registers, DeviceStep::kQueue, queue, 0);
    }
  }
  terminal.data = pages + 2 * kPageBytes;
  Store32(registers + VIRTIO_MMIO_STATUS,
          Load32(registers + VIRTIO_MMIO_STATUS) | VIRTIO_CONFIG_S_DRIVER_OK);
  terminal.present = Works(context);
  if (terminal.present) OfferInput();
}

void TerminalRound(Context& context) {
  if (!terminal.present || terminal.lost) return;
  Take(context);
  if (!Busy()) Write(context);
}

void FinishTerminal(Context& context) {
  if (!terminal.present) return;
  Spinner spinner(context);
  for (uint64_t looks = 1; Busy() && !terminal.lost; ++looks) {
    Take(context);
    spinner.Wait();
    if (looks % Virtqueue::kLooks == 0) Works(context);
  }
}

}  // namespace underfoot::guest
