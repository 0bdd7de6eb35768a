// The end of a machine: the guest's last look, the teardown of what moves, and the judgement.

#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "mmu/base/rcu.h"
#include "vmm/base/monotonic.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/machine/census.h"
#include "vmm/machine/machine.h"

namespace underfoot {

// A paused guest cannot leave a verdict, so from here on no client may pause it.
void Machine::ResumeForGood() {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kPaused) {
    for (const auto& vcpu : guest_->vcpus) vcpu->Resume();
  }
  state_.store(VmState::kEnding, kRelease);
}

void Machine::StopVcpus() {
  for (const auto& vcpu : guest_->vcpus) {
    vcpu->Stop();
    static_cast<void>(vcpu->Join());  // why it ended is guest_->exits.fatal()
  }
}

// The first two stops need no limit of their own. Their threads make no system call on a file, and
// between two looks at their stop words they wait for a refresh or an activation of a pfn cache, which
// ends (`FaultIn` in mmu/LOCKING.md): it waits for the End of a bracket, and the churn and the vCPUs,
// which could begin more, have stopped; and for the page source, for about two seconds. A system call on
// a disk's file may never return, so the virtio devices have a limit.
void Machine::StopDevices() {
  constexpr absl::Duration kPatience = absl::Seconds(1);
  if (guest_->ring != nullptr) guest_->ring->Stop();
  if (guest_->event_pages != nullptr) guest_->event_pages->Stop();
  hanging_ = guest_->devices.Stop(kPatience);
}

Machine::EndProgress Machine::Progress() const {
  const abi::Report total = GuestReport();
  return {total.final_checked + total.final_skipped, total.pages_owned};
}

// The guest ends the round that it is in, then looks at each of its pages: how long that takes
// depends on its memory and on the host. What counts is that it gets on. Pages of ordinary rounds
// do not count: a guest that never looks at the stop word goes on with them for ever.
absl::Status Machine::WaitForGuest(const GoOn& go_on) const {
  constexpr absl::Duration kLook = absl::Milliseconds(250);
  const absl::Duration patience = absl::FromChrono(options_.EndTimeout());
  const absl::Duration began = MonotonicNow();
  absl::Duration last_progress = began;
  uint64_t before = 0;
  while (!guest_->exits.WaitForAll(kLook)) {
    const EndProgress progress = Progress();
    if (go_on != nullptr && !go_on(progress)) {
      return absl::CancelledError("interrupted before the guest had left its verdict");
    }
    const uint64_t got = progress.checked + GuestReport().done;
    const absl::Duration now = MonotonicNow();
    if (std::exchange(before, got) != got) last_progress = now;
    if (now - last_progress < patience) continue;
    return absl::DeadlineExceededError(absl::StrFormat(
        "timeout: the guest left no verdict within %s, and made no progress in the last %s: %d of "
        "%d pages checked; --end-timeout sets how long to wait",
        absl::FormatDuration(absl::Trunc(now - began, absl::Milliseconds(100))),
        absl::FormatDuration(patience), progress.checked, progress.pages));
  }
  return absl::OkStatus();
}

// The churn stops first. Under churn the guest's last look may take a minute: each page that it
// looks at may have gone once more. The look loses nothing by it: the rounds before it were looks
// at memory that moves, and a translation that the churn has left stale stays stale until something
// reads it.
absl::Status Machine::Finish(const GoOn& go_on) {
  ResumeForGood();
  churn_->engine.Stop();
  absl::Status waited;
  if (guest_->reports != nullptr) {
    guest_->reports->RequestStop();
    waited = WaitForGuest(go_on);
  }
  if (working_set_ != nullptr) working_set_->Stop();
  StopVcpus();
  StopDevices();
  if (dirty_log_ != nullptr) dirty_log_->Stop();
  auditor_->Stop();
  auditor_->Sweep();
  ram_->kernel().Stop();
  if (guest_->pc != nullptr) guest_->pc->Flush();
  if (guest_->platform != nullptr) guest_->platform->Flush();
  rcu::Barrier();
  const GuestVerdict verdict = VerdictOfGuest();
  if (options_.RunsLinux()) {
    CheckLinux();
  } else {
    CheckGuest(verdict, waited);
  }
  CheckMachine();
  if (verdict == GuestVerdict::kGood && options_.DrivesDevices() && !left_behind()) CheckDisk();
  CheckDirtyLog();
  for (RunProblem& failure : Failures()) problems_.push_back(std::move(failure));
  absl::MutexLock lock(&mutex_);
  verdict_.store(verdict, kRelease);
  state_.store(VmState::kStopped,
               kRelease);  // last: a thread that sees it stopped sees its verdict
  if (problems_.empty()) return absl::OkStatus();
  const RunProblem& first = problems_.front();
  if (first.end == RunEnd::kRebooted && problems_.size() == 1) return absl::OkStatus();
  return first.end == RunEnd::kWrong ? absl::DataLossError(first.text)
                                     : absl::CancelledError(first.text);
}

GuestVerdict Machine::VerdictOfGuest() const {
  if (guest_->pc != nullptr) {
    if (guest_->pc->power_request() == PowerRequest::kNone) return GuestVerdict::kNone;
    return LinuxPanicked() ? GuestVerdict::kBad : GuestVerdict::kGood;
  }
  const std::optional<abi::Verdict> verdict = guest_->platform->exit_device().overall();
  if (!verdict.has_value()) return GuestVerdict::kNone;
  return *verdict == abi::Verdict::kGood ? GuestVerdict::kGood : GuestVerdict::kBad;
}

void Machine::CheckGuest(GuestVerdict verdict, const absl::Status& waited) {
  const abi::Report total = GuestReport();
  if (!waited.ok()) {
    problems_.push_back({RunEnd::kUnfinished, std::string(waited.message())});
  } else if (verdict == GuestVerdict::kNone && guest_->exits.fatal().ok()) {
    Wrong("the guest halted without a verdict");
  }
  if (verdict == GuestVerdict::kBad) {
    Wrong(absl::StrFormat("the guest's verdict is %s, %d mismatches%s",
                          Name(*guest_->platform->exit_device().overall()), total.mismatches,
                          total.mismatches == 0 ? "" : "; the first: " + Describe(total.first[0])));
  }
  // The built-in guest judges this itself, by its workload.
  if (verdict == GuestVerdict::kGood && total.pages_checked == 0 && !options_.HasBuiltInGuest()) {
    Wrong(
        "the guest has checked no page (pages_checked in its report is 0), so its good verdict "
        "proves nothing");
  }
}

// Before it resets the machine, a kernel of a PC says in this word which start it wants, and
// kLinuxDefaults has it ask for a warm one after a panic only.
bool Machine::LinuxPanicked() const {
  if (guest_->pc->power_request() != PowerRequest::kReset) return false;
  uint16_t word = 0;
  Reader reader(ram_->mmu().readers());
  const absl::Status read =
      ram_->access().Read(reader, pc::kWarmStart, std::as_writable_bytes(std::span(&word, 1)));
  return read.ok() && word == pc::kWarmStartValue;
}

void Machine::CheckLinux() {
  switch (guest_->pc->power_request()) {
    case PowerRequest::kOff:
      return;
    case PowerRequest::kReset:
      if (LinuxPanicked()) {
        Wrong("the guest's kernel has panicked; its output says why");
      } else {
        problems_.push_back({RunEnd::kRebooted, "the guest has rebooted: start it again to go on"});
      }
      return;
    case PowerRequest::kNone:
      if (!guest_->exits.fatal().ok()) return;  // one of the Failures
      problems_.push_back({RunEnd::kUnfinished,
                           "the guest was still running, and was switched off without its word; "
                           "`poweroff` in the guest ends it"});
      return;
  }
}

void Machine::CheckMachine() {
  if (guest_->ring != nullptr && guest_->ring->mismatches() != 0) {
    Wrong(absl::StrCat("the shared page's rings: ", guest_->ring->mismatches(), " wrong answers"));
  }
  if (const AuditStats audit = auditor_->Stats(); audit.unexplained != 0) {
    Wrong(absl::StrFormat(
        "the audit found %d unexplained differences in %d checks; missed by the hooks %d, by "
        "userfaultfd %d, by the kernel's notifier %d",
        audit.unexplained, audit.checks, audit.missed_by_hooks, audit.missed_by_uffd,
        audit.missed_by_kernel));
  }
  if (left_behind()) {
    problems_.push_back(
        {RunEnd::kUnfinished,
         absl::StrCat("a system call for the device queue ", absl::StrJoin(hanging_, ", "),
                      " does not return, and its thread is left behind")});
  }
  std::string left = LeftInMmu(ram_->mmu().Stats(), hanging_.size());
  if (!left.empty()) Wrong(std::move(left));
}

// Each vCPU of the built-in guest has read its part of the disk last, through its driver. Here the
// same parts are read from the file.
void Machine::CheckDisk() {
  virtio::Disk& disk = guest_->disk->disk();
  const uint64_t queues = guest_->disk->queues();
  for (uint64_t queue = 0; queue < queues; ++queue) {
    const abi::DiskPart part = abi::PartOf(queue, queues, disk.sectors());
    uint64_t digest = 0;
    int error = 0;
    for (uint64_t i = 0; error == 0 && i < part.sectors; ++i) {
      uint64_t words[abi::kSectorWords] = {};
      error = disk.Read((part.first + i) * virtio::Disk::kSectorBytes,
                        std::as_writable_bytes(std::span(words)));
      digest += abi::DigestOfSector(part.first + i, words);
    }
    if (error != 0) {
      problems_.push_back(
          {RunEnd::kUnfinished, absl::StrFormat("the disk could not be read at the end: %s",
                                                std::generic_category().message(error))});
    } else if (digest != guest_->reports->Read(queue).disk_digest) {
      Wrong(absl::StrFormat(
          "sectors %d to %d of the disk: the guest has read other content than the file has",
          part.first, part.first + part.sectors - 1));
    }
  }
  if (const DevicesStats devices = guest_->devices.Stats(); devices.needed_resets != 0) {
    Wrong(absl::StrFormat("virtio devices needed a reset %d times", devices.needed_resets));
  }
}

// The last collection has the writes that no earlier one has. Nothing writes any more. What it
// misses is one of the Failures.
void Machine::CheckDirtyLog() {
  if (dirty_log_ == nullptr) return;
  if (const absl::Status last = dirty_log_->Collect(); !last.ok()) {
    problems_.push_back(
        {RunEnd::kUnfinished, "the dirty log's last collection: " + std::string(last.message())});
  }
  const DirtyLogStats stats = dirty_log_->Stats();
  // An own guest need not record its writes. Each collection checks one write of the VMM.
  if (options_.HasBuiltInGuest() && stats.checked <= stats.collections) {
    Wrong("the dirty log was not checked: the guest has recorded no write");
  }
}

std::vector<RunProblem> Machine::Failures() const {
  std::vector<RunProblem> failures;
  const auto add = [&failures](RunEnd end, const std::string& what, const absl::Status& status) {
    if (!status.ok()) failures.push_back({end, what + std::string(status.message())});
  };
  add(RunEnd::kWrong, "", guest_->exits.fatal());
  if (guest_->event_pages != nullptr) {
    add(RunEnd::kUnfinished,
        "the machine could not serve the guest's event pages: ", guest_->event_pages->failure());
  }
  if (dirty_log_ != nullptr && dirty_log_->missed()) {
    failures.push_back(
        {RunEnd::kWrong,
         "the dirty log missed a write, which is in no collection: " + dirty_log_->first_missed()});
  }
  const absl::Status churn = churn_->engine.failure();
  // Of an operation that the host refused nothing is known to be wrong, but its churn has ended.
  add(absl::IsInternal(churn) || absl::IsDataLoss(churn) ? RunEnd::kWrong : RunEnd::kUnfinished,
      "the churn has ended early: ", churn);
  add(RunEnd::kUnfinished, "the record has ended: ", churn_->tape.status());
  return failures;
}

}  // namespace underfoot
