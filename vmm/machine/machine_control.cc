#include "vmm/machine/machine_control.h"

#include <linux/kvm.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "mmu/base/rcu.h"
#include "mmu/pfn_cache.h"
#include "vmm/base/monotonic.h"

namespace underfoot {
namespace {

CacheInfo InfoOf(const PfnCache& cache) {
  const PfnCache::Description description = cache.Describe();
  CacheInfo info;
  info.name = description.name;
  info.key = std::holds_alternative<Gpa>(description.key) ? CacheKey::kGpa : CacheKey::kHva;
  info.address = std::visit([](auto key) { return key.value; }, description.key);
  info.bytes = description.bytes;
  info.state = description.valid     ? CacheState::kValid
               : description.pending ? CacheState::kPending
                                     : CacheState::kInvalid;
  if (description.valid || description.pending) info.hva = description.hva;
  if (description.valid) info.pfn = description.pfn();
  info.refreshes = description.refreshes;
  info.invalidations = description.invalidations;
  return info;
}

absl::Status NoDirtyLog() {
  return absl::FailedPreconditionError("this machine logs no writes; start it with --dirty-log 1s");
}

Stage2EntryKind KindOf(Pte pte) {
  switch (pte.kind()) {
    case Pte::Kind::kEmpty:
      return Stage2EntryKind::kHole;
    case Pte::Kind::kTable:
      return Stage2EntryKind::kTable;
    case Pte::Kind::kLeaf:
      return Stage2EntryKind::kLeaf;
    case Pte::Kind::kClaim:
      return Stage2EntryKind::kClaim;
  }
  return Stage2EntryKind::kHole;
}

}  // namespace

// A client that reads the statistics again and again sees what the guest has reported about its memory
// not much more than a second ago.
absl::StatusOr<Stats> MachineControl::GetStats() {
  constexpr uint64_t kOldUs = 1'000'000;
  Stats stats = machine_.GetStats();
  if (stats.guest_memory.age_us >= kOldUs) machine_.AskForGuestMemory();
  return stats;
}

absl::StatusOr<std::vector<CacheInfo>> MachineControl::GetCaches() {
  std::vector<CacheInfo> infos;
  machine_.mmu().caches().ForEach([&](const PfnCache& cache) { infos.push_back(InfoOf(cache)); });
  return infos;
}

absl::StatusOr<std::vector<MemslotInfo>> MachineControl::GetMemslots() {
  std::vector<MemslotInfo> infos;
  rcu::ReadScope rcu;
  const MemslotSet& set = machine_.mmu().memslots().Current();
  set.ForEach([&](const Memslot& slot) {
    if (slot.dying) return;
    infos.push_back({.id = slot.id,
                     .range = slot.gfns,
                     .hva = slot.hva,
                     .flags = (slot.flags.read_only ? uint32_t{KVM_MEM_READONLY} : 0) |
                              (slot.flags.log_dirty ? uint32_t{KVM_MEM_LOG_DIRTY_PAGES} : 0),
                     .generation = slot.generation});
  });
  return infos;
}

absl::StatusOr<Stage2Walk> MachineControl::GetStage2(Gfn gfn) {
  const std::optional<Memslot> slot = machine_.mmu().memslots().Find(gfn);
  if (!slot.has_value()) {
    return absl::NotFoundError(
        absl::StrFormat("no memslot holds gfn 0x%x; RAM ends at gfn 0x%x, and a slot under churn "
                        "may be away for a moment",
                        gfn.value, machine_.memory().bytes() >> kPageShift));
  }
  const Stage2::Path path = machine_.mmu().stage2().WalkPath(gfn);
  Stage2Walk walk;
  walk.gfn = gfn;
  for (unsigned level = kLevels; level-- > path.last_level;) {
    const Pte pte = path.entries[level];
    walk.steps.push_back({static_cast<int>(level), KindOf(pte), pte.word()});
  }
  const unsigned level = path.last_level;
  const Pte last = path.entries[level];
  if (last.is_leaf()) {
    walk.leaf = Stage2Leaf{.pfn = Stage2::Leaf{last, level}.PfnOf(gfn),
                           .level = static_cast<int>(level),
                           .access = last.writable() ? Access::kWrite : Access::kRead,
                           .young = last.young(),
                           .dirty = last.dirty(),
                           .hva = slot->HvaOf(gfn)};
  } else {
    walk.reason =
        last.is_claim() ? "the page is being brought in" : "not touched yet, or taken away since";
  }
  return walk;
}

absl::StatusOr<VmInfo> MachineControl::GetVm() {
  const Stats stats = machine_.GetStats();
  VmInfo info;
  info.name = stats.vm.name;
  info.pid = getpid();
  info.state = stats.vm.state;
  info.vcpus = stats.vm.vcpus;
  info.memory_bytes = stats.vm.memory_bytes;
  info.churn_limits = machine_.options().ChurnLimitsOfHost();
  info.guest = machine_.options().guest;
  info.kvm_vendor = stats.vm.kvm_vendor;
  info.uptime_us = stats.vm.uptime_us;
  info.real_pfns = machine_.real_pfns();
  absl::MutexLock lock(&mutex_);
  ++asked_;
  last_asked_ = MonotonicNow();
  info.result = result_;
  return info;
}

void MachineControl::ReportToWaitingClients(RunResult result) {
  // Each client asks ten times a second until it has the result, and then no more.
  constexpr absl::Duration kQuiet = absl::Seconds(1);
  constexpr absl::Duration kAtMost = absl::Seconds(5);
  absl::MutexLock lock(&mutex_);
  result_ = std::move(result);
  const absl::Duration began = MonotonicNow();
  if (began - last_asked_ > kQuiet) return;
  const absl::Duration end = began + kAtMost;
  for (bool again = true; again && MonotonicNow() < end;) {
    const auto asked_again = [this, seen = asked_]()
                                 ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return asked_ != seen; };
    again = AwaitFor(mutex_, absl::Condition(&asked_again), kQuiet);
  }
}

absl::Status MachineControl::Quit() {
  if (machine_.state() == VmState::kStopped) {
    return absl::FailedPreconditionError("the machine has stopped already");
  }
  machine_.RequestQuit();
  return absl::OkStatus();
}

absl::StatusOr<WorkingSetInfo> MachineControl::GetWorkingSet(std::optional<absl::Duration> window) {
  if (machine_.working_set() == nullptr) {
    return absl::FailedPreconditionError(
        "the working set of this machine is not sampled; start it with --working-set 1s");
  }
  return machine_.working_set()->Info(window);
}

absl::StatusOr<DirtyInfo> MachineControl::GetDirty() {
  if (machine_.dirty_log() == nullptr) return NoDirtyLog();
  return machine_.dirty_log()->Info();
}

absl::StatusOr<DirtyPages> MachineControl::TakeDirty() {
  if (machine_.dirty_log() == nullptr) return NoDirtyLog();
  return machine_.dirty_log()->Take();
}

void MachineControl::GiveBackDirty(const DirtyPages& pages) {
  if (machine_.dirty_log() != nullptr) machine_.dirty_log()->GiveBack(pages);
}

std::vector<EventInfo> MachineControl::GetEvents(uint64_t first, size_t most) {
  std::vector<EventInfo> infos;
  for (const NumberedEvent& event : machine_.events().Since(first, most)) {
    infos.push_back({event, {}});
  }
  rcu::ReadScope rcu;
  const MemslotSet& set = machine_.mmu().memslots().Current();
  for (EventInfo& info : infos) {
    set.ForEachOverlap(info.event.event.range, [&](const Memslot& slot, HvaRange overlap) {
      if (!slot.dying) info.gfns.push_back(slot.GfnsOf(overlap));
    });
  }
  return infos;
}

absl::StatusOr<BalloonInfo> MachineControl::GetBalloon() {
  if (machine_.has_balloon()) {
    const Stats stats = machine_.GetStats();
    machine_.AskForGuestMemory();
    return BalloonInfo{stats.balloon, stats.guest_memory};
  }
  return absl::FailedPreconditionError(
      "this machine has no memory balloon; the guest mixed and a Linux guest have one (--guest "
      "mixed, --kernel)");
}

absl::StatusOr<BalloonInfo> MachineControl::SetBalloon(uint64_t bytes) {
  const absl::StatusOr<BalloonInfo> there = GetBalloon();
  if (!there.ok()) return there;
  if (absl::Status set = machine_.SetBalloon(bytes); !set.ok()) return set;
  return GetBalloon();
}

absl::StatusOr<HotplugStats> MachineControl::GetHotplug() {
  if (machine_.has_hotplug()) return machine_.GetStats().hotplug;
  return absl::FailedPreconditionError(
      "no memory can be plugged into this machine; start it with --hotplug-memory (a Linux guest, "
      "or "
      "the guest mixed, which usually has some)");
}

absl::StatusOr<HotplugStats> MachineControl::SetHotplug(uint64_t bytes) {
  const absl::StatusOr<HotplugStats> there = GetHotplug();
  if (!there.ok()) return there;
  if (absl::Status set = machine_.SetHotplug(bytes); !set.ok()) return set;
  return GetHotplug();
}

absl::StatusOr<ChurnState> MachineControl::GetChurn() {
  const ChurnStats stats = machine_.churn().Stats();
  return ChurnState{.running = stats.running,
                    .seed = stats.seed,
                    .rates = machine_.churn().rates(),
                    .operations = stats.operations};
}

absl::StatusOr<ChurnState> MachineControl::PutChurn(const ChurnRequest& request) {
  // Its start would set the churn of its options over this one.
  if (machine_.state() == VmState::kStarting) {
    return absl::FailedPreconditionError(
        "the machine is starting; set its churn once it runs, or with --churn");
  }
  if (machine_.state() == VmState::kEnding || machine_.state() == VmState::kStopped) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the machine %s; its churn is over",
                        machine_.state() == VmState::kEnding ? "is ending" : "has stopped"));
  }
  const ChurnRates rates = request.rates.value_or(machine_.churn().rates());
  const bool all_off = std::all_of(rates.begin(), rates.end(),
                                   [](const auto& kind_rate) { return kind_rate.second <= 0; });
  if (request.running == true && all_off) {
    return absl::FailedPreconditionError(
        "all kinds of churn are off, so there is nothing to start; give rates (churn --set)");
  }
  for (const auto& [kind, rate] : rates) {
    const std::string why_not = machine_.options().ChurnLimitsOfHost().UnavailableReason(kind);
    if (rate > 0 && !why_not.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("churn kind %s %s", ChurnKindName(kind), why_not));
    }
  }
  churn_changed_.store(true, kRelaxed);
  const ChurnStats now = machine_.churn().Stats();
  if (request.running.value_or(now.running)) {
    // The kernel's records must include those of the churn. If they cannot be read, the churn runs
    // without them, as with --kernel-events auto.
    static_cast<void>(machine_.kernel().WaitUntilOpen());
    absl::Status run = machine_.churn().Run(rates, request.seed.value_or(now.seed));
    if (!run.ok()) return run;
  } else {
    machine_.churn().Set(rates, request.seed.value_or(now.seed));
  }
  return GetChurn();
}

}  // namespace underfoot
