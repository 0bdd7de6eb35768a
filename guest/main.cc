// The code of each vCPU in ring 3: runs the chosen workload until `stop`, verifies everything once
// more, and ends.

#include <cstdint>

#include "guest/abi.h"
#include "guest/balloon.h"
#include "guest/barrier.h"
#include "guest/console.h"
#include "guest/context.h"
#include "guest/disk.h"
#include "guest/entropy.h"
#include "guest/events.h"
#include "guest/hotplug.h"
#include "guest/shared.h"
#include "guest/smp.h"
#include "guest/stamp.h"
#include "guest/terminal.h"

namespace underfoot::guest {
namespace {

constexpr uint64_t kStampsPerMixedRound = 4;
// Of BootInfo::device_turns: a request takes longer than that.
constexpr uint64_t kPausesOfTurn = 100;

bool TimeToStop(const Context& context) {
  const uint64_t limit = context.boot.max_rounds;
  return context.stop_requested() || (limit != 0 && context.report.rounds >= limit);
}

void CountRound(Context& context) { Add(context.report.rounds, 1); }

// Accesses the rings once. Returns true if there was something to do.
bool TouchRings(Context& context, SharedRings& rings) {
  if (!rings.present()) return false;
  if (context.vcpu == 0) return rings.Serve(context);
  rings.Watch(context);
  return false;
}

void RunStamp(Context& context) {
  while (!TimeToStop(context)) {
    StampRound(context);
    CountRound(context);
  }
}

void RunSmp(Context& context) {
  while (!SmpRound(context, context.report.rounds + 1, TimeToStop(context))) CountRound(context);
}

void RunShared(Context& context, SharedRings& rings) {
  Spinner spinner(context);
  while (!TimeToStop(context)) {
    if (!TouchRings(context, rings)) spinner.Wait();
    CountRound(context);
  }
}

constexpr uint64_t kDriverPages =
    kDiskPages + kEntropyPages + kBalloonPages + kTerminalPages + kHotplugPages;

// The drivers and the event pages use the pages behind the shared page, which churn moves like any
// other.
void SetUpDevices(Context& context) {
  const uint64_t shared = context.pages.shared_page();
  if (shared == 0) return;
  const uint64_t pages = shared + kPageBytes;
  const uint64_t events = pages + kDriverPages * kPageBytes;
  if (events + (context.boot.vcpus + 1) * kPageBytes <= context.pages.shared_end()) {
    SetUpEvents(context, events);
  }
  if (context.vcpu != 0 || context.boot.virtio_devices == 0) return;
  uint64_t next = pages;
  const auto take = [&next](uint64_t count) {
    const uint64_t first = next;
    next += count * kPageBytes;
    return first;
  };
  const uint64_t of_disk = take(kDiskPages);
  SetUpEntropy(context, take(kEntropyPages));
  SetUpBalloon(context, take(kBalloonPages));
  SetUpTerminal(context, take(kTerminalPages));
  SetUpHotplug(context, take(kHotplugPages));
  SetUpDisk(context, of_disk);
}

void TouchDevices(Context& context) {
  EventsRound(context);
  DiskRound(context);
  if (context.vcpu != 0) return;
  EntropyRound(context);
  BalloonRound(context);
  TerminalRound(context);
  HotplugRound(context);
}

void FinishDevices(Context& context) {
  if (context.boot.workload != abi::Workload::kMixed) return;
  FinishEvents(context);
  FinishDisk(context);
  if (context.vcpu != 0) return;
  FinishEntropy(context);
  FinishBalloon(context);
  FinishTerminal(context);
  FinishHotplug(context);
}

void RunMixed(Context& context, SharedRings& rings) {
  SetUpDevices(context);
  while (!SmpRound(context, context.report.rounds + 1, TimeToStop(context))) {
    for (uint64_t i = 0; i < kStampsPerMixedRound; ++i) {
      StampRound(context);
      TouchRings(context, rings);
      TouchDevices(context);
      Spinner spinner(context);
      for (uint64_t turn = 1; turn < context.boot.device_turns; ++turn) {
        DiskRound(context);
        for (uint64_t pause = 0; pause < kPausesOfTurn; ++pause) spinner.Wait();
      }
    }
    CountRound(context);
  }
}

void Run(Context& context, SharedRings& rings) {
  switch (context.boot.workload) {
    case abi::Workload::kHello:
      return;
    case abi::Workload::kStamp:
      return RunStamp(context);
    case abi::Workload::kSmp:
      return RunSmp(context);
    case abi::Workload::kShared:
      return RunShared(context, rings);
    case abi::Workload::kMixed:
      return RunMixed(context, rings);
  }
}

uint64_t PagesOwned(const Context& context) {
  uint64_t pages = 0;
  const uint64_t stamps = context.pages.stamp_chunks(context.vcpu);
  for (uint64_t k = 0; k < stamps; ++k) pages += context.pages.stamp_chunk(context.vcpu, k).pages;
  for (uint64_t m = 0; m < context.pages.smp_chunks(); ++m) {
    pages += context.pages.smp_chunk(m).pages;
  }
  return pages;
}

abi::Verdict VerdictOf(const Context& context, const SharedRings& rings) {
  const abi::Report& report = context.report;
  if (report.mismatches != 0) return abi::Verdict::kMismatch;
  const bool rings_only = context.boot.workload == abi::Workload::kShared;
  if (DrivesDisk(context) && report.device_requests == 0) return abi::Verdict::kNothingChecked;
  if (HasEventPage(context) && report.events_taken == 0) return abi::Verdict::kNothingChecked;
  if (LacksMemory(context)) return abi::Verdict::kNothingChecked;
  const bool checked =
      rings_only ? rings.present() && report.rounds != 0 : report.pages_checked != 0;
  return checked ? abi::Verdict::kGood : abi::Verdict::kNothingChecked;
}

void Summarize(const Context& context, abi::Verdict verdict) {
  const abi::Report& report = context.report;
  Line line(context.vcpu);
  line << report.rounds << " rounds, " << report.pages_checked << " pages checked, "
       << report.pages_written << " written, " << report.zero_pages << " found discarded";
  if (report.ring_consumed != 0) line << ", " << report.ring_consumed << " records answered";
  if (report.device_requests != 0) line << ", " << report.device_requests << " device requests";
  if (report.events_taken != 0) line << ", " << report.events_taken << " events";
  if (report.pages_left_out != 0) line << ", " << report.pages_left_out << " pages left out";
  line << ", " << report.mismatches << " mismatches";
  line << (verdict == abi::Verdict::kGood             ? ": good"
           : verdict == abi::Verdict::kNothingChecked ? ": NOTHING CHECKED"
                                                      : ": BAD");
  line.Send();
}

[[noreturn]] void Hello(const Context& context) {
  Line line(context.vcpu);
  line << "hello from vcpu " << context.vcpu << " of " << context.boot.vcpus << ", ring 3";
  line.Send();
  End(context.vcpu, abi::Verdict::kGood);
}

}  // namespace

extern "C" [[noreturn]] void GuestMain(abi::BootInfo* boot, uint64_t vcpu) {
  Context context(*boot, vcpu);
  Poke(context.report.state, abi::VcpuState::kRunning);
  if (boot->magic != abi::kMagic || boot->version != abi::kVersion || vcpu >= boot->vcpus ||
      !context.pages.Init(*boot)) {
    Line line(vcpu);
    line << "BAD BOOT INFO, version " << boot->version << ", expected " << abi::kVersion;
    line.Send();
    End(vcpu, abi::Verdict::kBadBootInfo);
  }
  if (boot->workload == abi::Workload::kHello) Hello(context);
  Poke(context.report.pages_owned, PagesOwned(context));
  Poke(context.report.pages_left_out, context.pages.left_out());

  SharedRings rings(context.pages.shared_page());
  Run(context, rings);
  Poke(context.report.state, abi::VcpuState::kFinalVerify);
  // Requests that the VMM published before it set `stop` are still answered, as far as there is
  // room.
  while (TouchRings(context, rings)) {
  }
  FinishDevices(context);
  VerifyStamps(context);
  VerifySmp(context);
  const abi::Verdict verdict = VerdictOf(context, rings);
  Summarize(context, verdict);
  End(vcpu, verdict);
}

}  // namespace underfoot::guest
