#include "vmm/machine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "mmu/rcu.h"
#include "vmm/boot.h"
#include "vmm/loader.h"
#include "vmm/memory/kvm_tracepoints.h"

namespace underfoot {
namespace {

// A guest that does not end by then is stopped without a verdict.
constexpr absl::Duration kVerdictTimeout = absl::Seconds(60);

// nullopt: not the name of a built-in workload, so the path of an image.
std::optional<abi::Workload> FindWorkload(std::string_view name) {
  for (const abi::Workload workload :
       {abi::Workload::kHello, abi::Workload::kStamp, abi::Workload::kSmp, abi::Workload::kShared,
        abi::Workload::kMixed}) {
    if (name == Name(workload)) return workload;
  }
  return std::nullopt;
}

Gpa SharedPageOf(const GuestMemory& memory) {
  for (const RamSlot& slot : memory.slots()) {
    if (slot.kind == abi::RangeKind::kShared) return slot.gpa;
  }
  return {};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const RunOptions& options,
                                                         SerialPort::Sink serial_sink) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return std::move(kvm).status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return std::move(vm).status();
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open(
      {.events = options.removal_events ? UffdEvents::kAll : UffdEvents::kNoRemovals,
       .async_write_protect = options.async_write_protect});
  if (!uffd.ok()) return std::move(uffd).status();
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  if (!pagemap.ok()) return std::move(pagemap).status();
  absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
      GuestMemory::Create(options.memory_bytes, options.backing, *uffd);
  if (!memory.ok()) return std::move(memory).status();
  std::unique_ptr<Machine> machine(new Machine(
      options,
      {*std::move(kvm), *std::move(vm), *std::move(uffd), *std::move(pagemap), *std::move(memory)},
      std::move(serial_sink)));
  if (absl::Status prepared = machine->Prepare(); !prepared.ok()) return prepared;
  return machine;
}

Machine::Machine(const RunOptions& options, Parts parts, SerialPort::Sink serial_sink)
    : options_(options),
      vendor_(KvmVendor()),
      created_(absl::Now()),
      kvm_(std::move(parts.kvm)),
      vm_(std::move(parts.vm)),
      memory_(std::move(parts.memory)),
      uffd_(std::move(parts.uffd)),
      pagemap_(std::move(parts.pagemap)),
      lazy_(options.backing == Backing::kAnon ? memory_->hvas() : HvaRange()),
      source_(uffd_, pagemap_, settling_, options.backing),
      mmu_(source_, {.retired_cap_bytes = options.retired_cap_bytes}),
      kernel_(mmu_, events_, memory_->hvas(),
              [ram = memory_->hvas()]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
                return KvmTracepoints::Open(ram);
              }),
      hooks_(mmu_.notifier(), uffd_, expected_, &events_),
      access_(mmu_, *memory_, pagemap_),
      monitor_(mmu_, uffd_, pagemap_, source_, expected_, settling_, &events_,
               options.page_in_is_touch() ? 1 : options.fault_around),
      platform_(options.vcpus, std::move(serial_sink)),
      exits_(options.vcpus, mmu_, access_, hooks_, platform_),
      reports_(memory_->slots().front().hva, options.vcpus),
      ring_(mmu_, SharedPageOf(*memory_), options.seed),
      operations_(
          *memory_, mmu_, vm_, hooks_, uffd_, coverage_, source_,
          [this](const std::function<absl::Status()>& change) { return WithVcpusOut(change); }),
      churn_(operations_, tape_, options.churn.rates, options.seed),
      auditor_(mmu_, pagemap_,
               {.settling = settling_,
                .monitor = monitor_,
                .kernel = &kernel_,
                .log = &events_,
                .backing = options.backing,
                .lazy = &lazy_},
               {GfnOf({abi::kSystemAreaBytes}), GfnOf({options.memory_bytes})}, options.seed) {
  hooks_.NoteLazyFrees(lazy_);
  monitor_.NoteLazyFrees(lazy_);
  if (options.kernel_events != KernelEvents::kOff) source_.Announce(kernel_.own_changes());
}

Machine::~Machine() {
  if (working_set_ != nullptr) working_set_->Stop();
  churn_.Stop();
  StopVcpus();
  ring_.Stop();
  auditor_.Stop();
  kernel_.Stop();
  vcpus_.clear();
  monitor_.Stop();
}

absl::Status Machine::Prepare() {
  if (absl::Status opened = tape_.Open(options_.record_path, options_.replay_path,
                                       {options_.memory_bytes, options_.backing});
      !opened.ok()) {
    return opened;
  }
  events_.SetSink(&coverage_);
  coverage_.SetSource(EventSource::kHook, true);
  coverage_.SetSource(EventSource::kUffd, true);
  if (absl::Status attached = hooks_.Attach(memory_->hvas(), memory_->backing(), memory_->fd());
      !attached.ok()) {
    return attached;
  }
  PrepareWorkingSet();
  // Of a memfd the content may go after the zap, by MADV_REMOVE, which holds no mmap_lock.
  if (options_.backing == Backing::kAnon && mmap_barrier_.valid()) {
    kernel_.SetEvidence({&settling_, [this] { mmap_barrier_.Wait(); }});
  }
  if (absl::Status started = monitor_.Start(); !started.ok()) return started;
  if (absl::Status added = AddSlots(); !added.ok()) return added;
  if (absl::Status loaded = LoadGuest(); !loaded.ok()) return loaded;
  return CreateVcpus();
}

void Machine::PrepareWorkingSet() {
  if (!options_.working_set_period.has_value()) return;
  working_set_ = std::make_unique<WorkingSet>(*memory_, mmu_.notifier(), hooks_, pagemap_);
  source_.TellTouches([this](Hva page) { working_set_->Touched(page); });
  kernel_.SetYoungSink([this](Hva page) { working_set_->Touched(page); });
}

absl::Status Machine::AddSlots() {
  for (const RamSlot& slot : memory_->slots()) {
    if (absl::Status added = memory_->AddSlot(slot, mmu_, vm_); !added.ok()) return added;
  }
  return absl::OkStatus();
}

absl::Status Machine::LoadGuest() {
  Reader reader(mmu_.readers());
  const auto write = [&](Gpa gpa, std::span<const std::byte> bytes) {
    return access_.Write(reader, gpa, bytes);
  };
  std::vector<std::byte> file;
  std::span<const std::byte> image = EmbeddedGuest();
  const std::optional<abi::Workload> workload = FindWorkload(options_.guest);
  if (!workload.has_value()) {
    absl::StatusOr<std::vector<std::byte>> read = ReadImageFile(options_.guest, kImageRange.size());
    if (!read.ok()) return std::move(read).status();
    file = *std::move(read);
    image = file;
  }
  absl::StatusOr<Gpa> entry = LoadElf(image, kImageRange, write);
  if (!entry.ok()) return std::move(entry).status();
  entry_ = *entry;
  BootConfig boot;
  boot.memory_bytes = options_.memory_bytes;
  boot.vcpus = options_.vcpus;
  boot.workload = workload.value_or(abi::Workload::kMixed);
  boot.seed = options_.seed;
  boot.keep_visits = options_.keep_visits;
  boot.ranges = memory_->DataRanges();
  return WriteBootData(boot, write);
}

absl::Status Machine::CreateVcpus() {
  for (unsigned i = 0; i < options_.vcpus; ++i) {
    absl::StatusOr<Vcpu> vcpu = Vcpu::Create(kvm_, vm_, i);
    if (!vcpu.ok()) return std::move(vcpu).status();
    if (absl::Status set = SetStartRegisters(*vcpu, entry_); !set.ok()) return set;
    vcpus_.push_back(std::make_unique<VcpuThread>(*std::move(vcpu), exits_));
  }
  return absl::OkStatus();
}

absl::Status Machine::Start() {
  if (absl::Status started = ring_.Start(); !started.ok()) return started;
  auditor_.Start();
  for (const auto& vcpu : vcpus_) {
    if (absl::Status started = vcpu->Start(); !started.ok()) return started;
  }
  if (absl::Status started = StartKernelNotifier(); !started.ok()) return started;
  if (working_set_ != nullptr && options_.working_set_period->count() > 0) {
    working_set_->Start(absl::FromChrono(*options_.working_set_period));
  }
  if (!options_.churn.off() || tape_.replays()) churn_.Run(options_.churn.rates, options_.seed);
  absl::MutexLock lock(&mutex_);
  state_.store(VmState::kRunning, kRelease);
  return absl::OkStatus();
}

// After the vCPUs, which it would hold up, and before the churn, which it shall see.
absl::Status Machine::StartKernelNotifier() {
  if (options_.kernel_events == KernelEvents::kOff) return absl::OkStatus();
  if (absl::Status started = kernel_.Start(); !started.ok()) return started;
  if (options_.kernel_events == KernelEvents::kAuto && options_.churn.off()) {
    return absl::OkStatus();
  }
  const absl::Status opened = kernel_.WaitUntilOpen();
  coverage_.SetSource(EventSource::kKernel, opened.ok());
  if (opened.ok() || options_.kernel_events == KernelEvents::kAuto) return absl::OkStatus();
  return absl::Status(opened.code(),
                      absl::StrCat("--kernel-events on: ", std::string(opened.message())));
}

absl::Status Machine::Pause() {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kPaused) return absl::OkStatus();
  if (state() != VmState::kRunning || ending_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the machine is %s and cannot be paused",
                        state() == VmState::kRunning ? "ending" : VmStateName(state())));
  }
  for (const auto& vcpu : vcpus_) vcpu->Pause();
  state_.store(VmState::kPaused, kRelease);
  return absl::OkStatus();
}

absl::Status Machine::Resume() {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kRunning) return absl::OkStatus();
  if (state() != VmState::kPaused) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the machine is %s and cannot be resumed", VmStateName(state())));
  }
  for (const auto& vcpu : vcpus_) vcpu->Resume();
  state_.store(VmState::kRunning, kRelease);
  return absl::OkStatus();
}

// KVM waits until no vCPU uses the old set of memslots, and a vCPU that touches a slot on its way
// out tries again and again until it is gone. Where there are more threads than CPUs these two wait
// for each other's time slices, for seconds; a vCPU that stands still is in nobody's way.
absl::Status Machine::WithVcpusOut(const std::function<absl::Status()>& change) {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kPaused) return change();
  for (const auto& vcpu : vcpus_) vcpu->Pause();
  absl::Status changed = change();
  for (const auto& vcpu : vcpus_) vcpu->Resume();
  return changed;
}

// A paused guest cannot leave a verdict, and nobody shall pause it any more.
void Machine::ResumeForGood() {
  absl::MutexLock lock(&mutex_);
  ending_ = true;
  if (state() != VmState::kPaused) return;
  for (const auto& vcpu : vcpus_) vcpu->Resume();
  state_.store(VmState::kRunning, kRelease);
}

void Machine::StopVcpus() {
  for (const auto& vcpu : vcpus_) {
    vcpu->Stop();
    static_cast<void>(vcpu->Join());  // why it ended is exits_.fatal()
  }
}

absl::Status Machine::Finish() {
  ResumeForGood();
  reports_.RequestStop();
  const bool ended = exits_.WaitForAll(kVerdictTimeout);
  if (working_set_ != nullptr) working_set_->Stop();
  churn_.Stop();
  StopVcpus();
  ring_.Stop();
  auditor_.Stop();
  auditor_.Sweep();
  kernel_.Stop();
  platform_.serial().Flush();
  absl::Status verdict =
      ended ? Verdict()
            : absl::DeadlineExceededError(absl::StrCat("the guest left no verdict within ",
                                                       absl::FormatDuration(kVerdictTimeout)));
  rcu::Barrier();
  verdict.Update(CheckNothingLeft());
  verdict.Update(tape_.Finish());
  absl::MutexLock lock(&mutex_);
  verdict_.store(verdict.ok() ? GuestVerdict::kGood : GuestVerdict::kBad, kRelease);
  state_.store(VmState::kStopped, kRelease);  // last: who sees it stopped sees its verdict
  return verdict;
}

absl::Status Machine::Verdict() const {
  if (absl::Status fatal = exits_.fatal(); !fatal.ok()) return fatal;
  if (absl::Status churn = churn_.failure(); !churn.ok()) return churn;
  const std::optional<abi::Verdict> verdict = platform_.exit_device().overall();
  if (!verdict.has_value()) return absl::UnknownError("the guest halted without a verdict");
  const abi::Report total = reports_.Total();
  if (*verdict != abi::Verdict::kGood) {
    return absl::DataLossError(absl::StrFormat(
        "the guest's verdict is %s, %d mismatches%s", Name(*verdict), total.mismatches,
        total.mismatches == 0 ? "" : "; the first: " + Describe(total.first[0])));
  }
  if (ring_.mismatches() != 0) {
    return absl::DataLossError(
        absl::StrCat("the shared page's rings: ", ring_.mismatches(), " wrong answers"));
  }
  const AuditStats audit = auditor_.Stats();
  if (audit.unexplained != 0) {
    return absl::DataLossError(absl::StrFormat(
        "the audit found %d unexplained differences in %d checks; missed by the hooks %d, by "
        "userfaultfd %d, by the kernel's notifier %d",
        audit.unexplained, audit.checks, audit.missed_by_hooks, audit.missed_by_uffd,
        audit.missed_by_kernel));
  }
  return absl::OkStatus();
}

absl::Status Machine::CheckNothingLeft() const {
  const MmuStats stats = mmu_.Stats();
  if (stats.notifier.in_flight == 0 && stats.pfn_caches.count == 0 &&
      stats.rcu.pending_tables == 0 && stats.notifier.stray_ends == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrFormat(
      "left over at the end: %d brackets, %d pfn caches, %d retired tables, %d stray ends",
      stats.notifier.in_flight, stats.pfn_caches.count, stats.rcu.pending_tables,
      stats.notifier.stray_ends));
}

Stats Machine::GetStats() const {
  const MmuStats mmu = mmu_.Stats();
  const abi::Report total = reports_.Total();
  Stats stats;
  stats.vm.name = options_.name;
  stats.vm.vcpus = options_.vcpus;
  stats.vm.memory_bytes = options_.memory_bytes;
  stats.vm.uptime_us = static_cast<uint64_t>(absl::ToInt64Microseconds(absl::Now() - created_));
  stats.vm.kvm_vendor = vendor_;
  stats.guest.workload = options_.guest;
  stats.guest.pages_checked = total.pages_checked;
  stats.guest.mismatches = total.mismatches + ring_.mismatches();
  stats.pfn_caches = mmu.pfn_caches;
  stats.stage2 = mmu.stage2;
  stats.notifier = mmu.notifier;
  stats.memslots = mmu.memslots;
  stats.rcu = mmu.rcu;
  stats.uffd = monitor_.Stats();
  stats.kernel = kernel_.Stats();
  stats.churn = churn_.Stats();
  stats.audit = auditor_.Stats();
  if (working_set_ != nullptr) stats.working_set = working_set_->Stats();
  stats.vm.state = state();
  stats.guest.verdict = verdict_.load(kAcquire);
  return stats;
}

}  // namespace underfoot
