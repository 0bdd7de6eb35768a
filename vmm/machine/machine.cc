#include "vmm/machine/machine.h"

#include <linux/kvm.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "mmu/base/rcu.h"
#include "vmm/base/cpus.h"
#include "vmm/base/monotonic.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/linux_boot.h"
#include "vmm/boot/loader.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/churn/script.h"
#include "vmm/devices/virtio/disk.h"
#include "vmm/devices/virtio/rng.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/run_inputs.h"

namespace underfoot {
namespace {

// The entropy device, the balloon, the memory and the console come too.
static_assert(kMaxDisks + 4 <= pc::kVirtioSlots);

// nullopt: not the name of a built-in workload, so the path of an image.
std::optional<abi::Workload> FindWorkload(std::string_view name) {
  if (name == "devices") return abi::Workload::kMixed;  // see RunOptions::DeviceTurns
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
                                                         SerialPort::Sink serial_sink,
                                                         ByteSink byte_sink) {
  if (absl::Status checked = CheckOptions(options); !checked.ok()) return checked;
  absl::StatusOr<Kvm> kvm = OpenKvm(options);
  if (!kvm.ok()) return std::move(kvm).status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return std::move(vm).status();
  std::unique_ptr<Machine> machine(new Machine(options, *std::move(vm)));
  if (absl::Status built = machine->Build(std::move(serial_sink), std::move(byte_sink));
      !built.ok()) {
    return built;
  }
  if (absl::Status prepared = machine->Prepare(*kvm); !prepared.ok()) return prepared;
  return machine;
}

Machine::Machine(const RunOptions& options, Vm vm)
    : options_(options), vendor_(KvmVendor()), created_(MonotonicNow()), vm_(std::move(vm)) {}

Machine::Guest::Guest(const RunOptions& options, CoherentRam& ram, std::unique_ptr<Platform> own,
                      std::unique_ptr<PcPlatform> linux)
    : platform(std::move(own)),
      pc(std::move(linux)),
      devices({ram.mmu(), ram.memory(), ram.access()}),
      exits(options.vcpus, ram.mmu(), ram.access(), ram.hooks(),
            pc != nullptr ? static_cast<PortDevices&>(*pc) : *platform, devices,
            pc != nullptr ? GuestExits::Hole::kReadsAsOnes : GuestExits::Hole::kIsFatal) {
  if (pc != nullptr) return;
  reports = std::make_unique<GuestReports>(ram.memory().slots().front().hva, options.vcpus,
                                           ram.memory().log());
  ring = std::make_unique<RingPeer>(ram.mmu(), SharedPageOf(ram.memory()), options.seed);
  event_pages = std::make_unique<EventPages>(
      ram.mmu(), GfnRange{GfnOf({abi::kSystemAreaBytes}), GfnOf({options.memory_bytes})},
      options.vcpus, options.seed);
  platform->SetEventPages(event_pages.get());
}

Machine::Churn::Churn(const RunOptions& options, CoherentRam& ram, Vm& vm, Coverage& coverage,
                      KvmGate gate)
    : operations(ram.memory(), ram.mmu(), vm, ram.hooks(), ram.uffd(), coverage, ram.page_source(),
                 std::move(gate),
                 options.RunsLinux() ? MemoryAway::kVcpusOut : MemoryAway::kGuestRuns),
      engine(operations, tape, options.churn.rates, options.seed) {}

// A line of interrupt that KVM refuses to set would only delay the guest's console.
std::unique_ptr<PcPlatform> Machine::MakePcPlatform(SerialPort::Sink serial_sink,
                                                    ByteSink byte_sink) {
  const auto lines = std::make_shared<LineCutter>(
      [sink = std::move(serial_sink)](std::string_view line) { sink(0, line); });
  if (byte_sink == nullptr) byte_sink = [lines](std::string_view bytes) { lines->Take(bytes); };
  const auto line = [this](bool high) {
    static_cast<void>(vm_.SetInterruptLine(pc::kSerialGsi, high));
  };
  return std::make_unique<PcPlatform>(Uart::Sinks{.output = std::move(byte_sink), .line = line},
                                      [lines] { lines->Flush(); });
}

absl::Status Machine::Build(SerialPort::Sink serial_sink, ByteSink byte_sink) {
  CoherentRamOptions ram{
      .bytes = options_.memory_bytes,
      .hotplug_bytes = options_.HotplugBytes(),
      .use = options_.RunsLinux() ? RamUse::kLinux : RamUse::kTestGuest,
      .backing = options_.backing,
      .huge_pages = options_.huge_pages,
      .uffd = {.events = options_.removal_events ? UffdEvents::kAll : UffdEvents::kNoRemovals,
               .async_write_protect = options_.async_write_protect},
      .mmu = {.retired_cap_bytes = options_.retired_cap_bytes.value_or(
                  RetiredCapFor(options_.memory_bytes + options_.HotplugBytes()))},
      .log_writes = options_.dirty_log_period.has_value(),
      .fault_around = options_.FaultAround(),
      .fault_handlers = options_.fault_handlers.value_or(FaultHandlersForThisHost()),
      .kernel_events = options_.kernel_events != KernelEvents::kOff,
      .event_sink = &coverage_,
      // Not by StartKernelNotifier, which does not wait where there is no churn yet: a client may
      // order some later.
      .kernel_open_sink = [this] { coverage_.SetSource(EventSource::kKernel, true); }};
  if (options_.working_set_period.has_value()) {
    ram.touch_sink = [this](Hva page) { working_set_->Touched(page); };
  }
  absl::StatusOr<std::unique_ptr<CoherentRam>> created = CoherentRam::Create(ram);
  if (!created.ok()) return std::move(created).status();
  ram_ = *std::move(created);
  if (options_.working_set_period.has_value()) {
    working_set_ =
        std::make_unique<WorkingSet>(ram_->memory(), ram_->mmu().notifier(), ram_->pagemap(),
                                     absl::FromChrono(*options_.working_set_period));
  }
  if (options_.RunsLinux()) {
    terminal_ = byte_sink;
    guest_ = std::make_unique<Guest>(options_, *ram_, nullptr,
                                     MakePcPlatform(std::move(serial_sink), std::move(byte_sink)));
  } else {
    guest_ = std::make_unique<Guest>(
        options_, *ram_,
        std::make_unique<Platform>(options_.vcpus, ram_->memory().slots().front().hva,
                                   std::move(serial_sink)),
        nullptr);
  }
  if (options_.dirty_log_period.has_value()) {
    dirty_log_ =
        std::make_unique<DirtyCollector>(ram_->memory(), ram_->mmu(), vm_, *guest_->reports,
                                         absl::FromChrono(*options_.dirty_log_period));
  }
  churn_ = std::make_unique<Churn>(
      options_, *ram_, vm_, coverage_,
      [this](const std::function<absl::Status()>& change) { return WithVcpusOut(change); });
  auditor_ =
      std::make_unique<Auditor>(ram_->mmu(), ram_->pagemap(),
                                Auditor::Sources{.removals = ram_->removals(),
                                                 .monitor = ram_->monitor(),
                                                 .kernel = &ram_->kernel(),
                                                 .foreign_changes = &ram_->foreign_changes(),
                                                 .backing = options_.backing,
                                                 .lazy = &ram_->lazy_frees()},
                                GfnRange{GfnOf({options_.RunsLinux() ? 0 : abi::kSystemAreaBytes}),
                                         GfnOf({ram_->memory().bytes()})},
                                options_.seed);
  return absl::OkStatus();
}

Machine::~Machine() {
  if (auditor_ == nullptr) return;  // Build, which makes it last, has failed: nothing runs
  if (working_set_ != nullptr) working_set_->Stop();
  churn_->engine.Stop();
  StopVcpus();
  StopDevices();
  if (dirty_log_ != nullptr) dirty_log_->Stop();
  auditor_->Stop();
  guest_->vcpus.clear();
  // The system call that hangs may still write to the addresses of guest memory, and its worker uses
  // the Mmu when it returns. The handlers still run: the kernel waits until one has read the event of
  // this unmap.
  if (left_behind()) ram_->LeaveReserved();
  // While the touch sink's working set still exists.
  ram_->Stop();
  if (!left_behind()) return;
  static_cast<void>(guest_.release());
  static_cast<void>(ram_.release());
}

// The built-in guest drives them in `mixed`; another guest has a disk if it is given one. Linux always
// has the entropy device and the balloon.
absl::Status Machine::AddDevices() {
  constexpr uint64_t kTemporaryDiskBytes = uint64_t{2} << 20;
  if (options_.disks.empty() && options_.DrivesDevices()) {
    absl::Status added = AddDisk(virtio::RawDisk::Temporary(kTemporaryDiskBytes));
    if (!added.ok()) return added;
  }
  for (const DiskFile& file : options_.disks) {
    absl::Status added = AddDisk(OpenDisk(file));
    if (!added.ok()) return added;
  }
  // Not by `this`: a worker that is left behind outlives the machine.
  const auto discard = [&hooks = ram_->hooks()](HvaRange pages) {
    return hooks.Discard(pages).status();
  };
  if (guest_->disk != nullptr || options_.RunsLinux()) {
    guest_->devices.Add(std::make_unique<virtio::Rng>());
    auto balloon = std::make_unique<virtio::Balloon>(ram_->memory(), discard);
    guest_->balloon = balloon.get();
    guest_->devices.Add(std::move(balloon));
  }
  if (ram_->memory().hotplug() != nullptr) {
    auto mem =
        std::make_unique<virtio::Mem>(ram_->memory(), ram_->mmu().direct_requests(), discard);
    if (absl::Status set = mem->SetRequested(options_.FirstPluggedBytes()); !set.ok()) return set;
    guest_->mem = mem.get();
    guest_->devices.Add(std::move(mem));
  }
  AddConsole();
  return absl::OkStatus();
}

// A Linux guest with a terminal has one beside its serial port. The built-in guest gets back what it
// writes, and compares.
void Machine::AddConsole() {
  if (terminal_ == nullptr && !options_.DrivesDevices()) return;
  // Not by `this`: a worker that is left behind outlives the machine.
  const auto echo = std::make_shared<virtio::Console*>(nullptr);
  virtio::Console::Output output = terminal_;
  if (output == nullptr) {
    output = [echo](std::string_view bytes) { static_cast<void>((*echo)->Receive(bytes)); };
  }
  auto console = std::make_unique<virtio::Console>(std::move(output));
  guest_->console = *echo = console.get();
  guest_->devices.Add(std::move(console));
}

absl::Status Machine::AddDisk(absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk) {
  if (!disk.ok()) return std::move(disk).status();
  const auto queues =
      static_cast<uint16_t>(std::min<uint64_t>(options_.vcpus, abi::kMaxDiskQueues));
  // Each disk has a name of its own, by which Linux tells them apart in /dev/disk/by-id.
  const size_t others = guest_->devices.size();
  const std::string id = others == 0 ? abi::kDiskId : absl::StrCat(abi::kDiskId, "-", others);
  auto block = std::make_unique<virtio::Block>(*std::move(disk), queues, id);
  if (guest_->disk == nullptr) guest_->disk = block.get();
  guest_->devices.Add(std::move(block));
  return absl::OkStatus();
}

absl::Status Machine::Prepare(const Kvm& kvm) {
  if (!options_.replay_path.empty()) {
    absl::Status read = churn_->tape.Replay(options_.replay_path, ScriptMachine::Of(options_));
    if (!read.ok()) return read;
  }
  if (absl::Status added = AddDevices(); !added.ok()) return added;
  coverage_.SetSource(EventSource::kHook, true);
  coverage_.SetSource(EventSource::kUffd, true);
  if (absl::Status started = ram_->Start(); !started.ok()) return started;
  if (absl::Status added = AddSlots(); !added.ok()) return added;
  const absl::StatusOr<StartVcpu> start =
      options_.RunsLinux() ? LoadLinuxGuest(kvm) : LoadTestGuest();
  if (!start.ok()) return start.status();
  if (absl::Status created = CreateVcpus(kvm, *start); !created.ok()) return created;
  if (options_.record_path.empty()) return absl::OkStatus();
  return churn_->tape.Record(options_.record_path, ScriptMachine::Of(options_));
}

absl::Status Machine::AddSlots() {
  for (const RamSlot& slot : ram_->memory().slots()) {
    if (absl::Status added = ram_->memory().AddSlot(slot, ram_->mmu(), vm_); !added.ok()) {
      return added;
    }
  }
  return absl::OkStatus();
}

// The interrupt controllers come before the vCPUs, each of which gets a local APIC.
absl::StatusOr<Machine::StartVcpu> Machine::LoadLinuxGuest(const Kvm& kvm) {
  // As for a fault of the guest.
  const Around around = options_.FaultAround() > 1 ? Around::kBlocks : Around::kNothing;
  Reader reader(ram_->mmu().readers());
  const absl::StatusOr<LinuxStart> start =
      LoadLinuxFiles(options_, [&](Gpa gpa, std::span<const std::byte> bytes) {
        ram_->access().BringIn(reader, {GfnOf(gpa), GfnOf(gpa + (bytes.size() - 1)) + 1}, around);
        return ram_->access().Write(reader, gpa, bytes);
      });
  if (!start.ok()) return start.status();
  if (absl::Status made = vm_.CreateInterruptControllers(pc::kPagesOfKvm, pc::kIoApicPins);
      !made.ok()) {
    return made;
  }
  const absl::StatusOr<std::vector<kvm_cpuid_entry2>> supported = SupportedCpuid(kvm);
  if (!supported.ok()) return supported.status();
  const bool tsc_deadline = kvm.CheckExtension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return
      [supported = *supported, start = *start, vcpus = options_.vcpus, tsc_deadline](Vcpu& vcpu) {
        absl::Status set = SetCpuid(
            vcpu, PcCpuid(supported,
                          {.apic_id = vcpu.index(), .vcpus = vcpus, .tsc_deadline = tsc_deadline}));
        // The kernel starts the others.
        if (!set.ok() || vcpu.index() != 0) return set;
        return SetLinuxStartRegisters(vcpu, start);
      };
}

absl::StatusOr<Machine::StartVcpu> Machine::LoadTestGuest() {
  Reader reader(ram_->mmu().readers());
  const auto write = [&](Gpa gpa, std::span<const std::byte> bytes) {
    return ram_->access().Write(reader, gpa, bytes);
  };
  const std::optional<abi::Workload> workload = FindWorkload(options_.guest);
  absl::StatusOr<Gpa> entry = workload.has_value()
                                  ? LoadElf(EmbeddedGuest(), kImageRange, write)
                                  : LoadElfFile(options_.guest, kImageRange, write);
  if (!entry.ok()) return entry.status();
  BootConfig boot;
  boot.memory_bytes = options_.memory_bytes;
  boot.hotplug_bytes = options_.HotplugBytes();
  boot.vcpus = options_.vcpus;
  boot.workload = workload.value_or(abi::Workload::kMixed);
  boot.seed = options_.seed;
  boot.keep_visits = options_.RecordsVisits();
  boot.virtio_devices = guest_->devices.size();
  boot.device_turns = options_.DeviceTurns();
  boot.ranges = ram_->memory().DataRanges();
  if (absl::Status written = WriteBootData(boot, write); !written.ok()) return written;
  return [entry = *entry](Vcpu& vcpu) {
    absl::Status set = SetCpuid(vcpu, LongModeCpuid());
    return set.ok() ? SetStartRegisters(vcpu, entry) : set;
  };
}

absl::Status Machine::CreateVcpus(const Kvm& kvm, const StartVcpu& start) {
  const std::vector<int> cpus = AllowedCpus();
  for (unsigned i = 0; i < options_.vcpus; ++i) {
    absl::StatusOr<Vcpu> vcpu = Vcpu::Create(kvm, vm_, i);
    if (!vcpu.ok()) return std::move(vcpu).status();
    if (absl::Status set = start(*vcpu); !set.ok()) return set;
    std::optional<int> cpu;
    if (options_.pin_vcpus) cpu = cpus[i % cpus.size()];
    guest_->vcpus.push_back(std::make_unique<VcpuThread>(*std::move(vcpu), guest_->exits, cpu));
  }
  return absl::OkStatus();
}

// The vCPUs first, behind the devices that they notify: what else is started would delay the guest,
// which needs none of it.
absl::Status Machine::Start() {
  // But a run that this host refuses must not have run the guest, which writes to its disk.
  const bool needs_kernel = options_.kernel_events == KernelEvents::kOn;
  if (needs_kernel) {
    if (absl::Status started = StartKernelNotifier(); !started.ok()) return started;
  }
  std::optional<uint32_t> first_gsi;
  if (options_.RunsLinux()) first_gsi = pc::kFirstVirtioGsi;
  if (absl::Status started = guest_->devices.Start(vm_, first_gsi); !started.ok()) return started;
  for (const auto& vcpu : guest_->vcpus) {
    if (absl::Status started = vcpu->Start(); !started.ok()) return started;
  }
  if (guest_->ring != nullptr) {
    if (absl::Status started = guest_->ring->Start(); !started.ok()) return started;
  }
  if (absl::Status started = auditor_->Start(); !started.ok()) return started;
  if (!needs_kernel) {
    if (absl::Status started = StartKernelNotifier(); !started.ok()) return started;
  }
  if (working_set_ != nullptr && options_.working_set_period->count() > 0) {
    if (absl::Status started = working_set_->Start(); !started.ok()) return started;
  }
  if (dirty_log_ != nullptr && options_.dirty_log_period->count() > 0) {
    if (absl::Status started = dirty_log_->Start(); !started.ok()) return started;
  }
  if (!options_.churn.off() || churn_->tape.replays()) {
    if (absl::Status run = churn_->engine.Run(options_.churn.rates, options_.seed); !run.ok()) {
      return run;
    }
  }
  // Last: a run that cannot start leaves the file as it was.
  if (absl::Status begun = churn_->tape.BeginRecord(); !begun.ok()) return begun;
  absl::MutexLock lock(&mutex_);
  state_.store(VmState::kRunning, kRelease);
  return absl::OkStatus();
}

// Before the churn, which it must see.
absl::Status Machine::StartKernelNotifier() {
  if (options_.kernel_events == KernelEvents::kOff) return absl::OkStatus();
  if (absl::Status started = ram_->kernel().Start(); !started.ok()) return started;
  if (options_.kernel_events == KernelEvents::kAuto && options_.churn.off() &&
      !churn_->tape.replays()) {
    return absl::OkStatus();
  }
  const absl::Status opened = ram_->kernel().WaitUntilOpen();
  if (opened.ok() || options_.kernel_events == KernelEvents::kAuto) return absl::OkStatus();
  return absl::Status(opened.code(),
                      absl::StrCat("--kernel-events on: ", std::string(opened.message())));
}

absl::Status Machine::Pause() {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kPaused) return absl::OkStatus();
  if (state() != VmState::kRunning) {
    return absl::FailedPreconditionError(
        absl::StrFormat("the machine is %s and cannot be paused", VmStateName(state())));
  }
  for (const auto& vcpu : guest_->vcpus) vcpu->Pause();
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
  for (const auto& vcpu : guest_->vcpus) vcpu->Resume();
  state_.store(VmState::kRunning, kRelease);
  return absl::OkStatus();
}

// KVM waits until no vCPU uses the old set of memslots, and a vCPU that touches a slot on its way
// out tries again and again until it is gone. Where there are more threads than CPUs these two wait
// for each other's time slices, for seconds. A vCPU that stands still delays no other thread.
absl::Status Machine::WithVcpusOut(const std::function<absl::Status()>& change) {
  absl::MutexLock lock(&mutex_);
  if (state() == VmState::kPaused) return change();
  for (const auto& vcpu : guest_->vcpus) vcpu->Pause();
  absl::Status changed = change();
  for (const auto& vcpu : guest_->vcpus) vcpu->Resume();
  return changed;
}

abi::Report Machine::GuestReport() const {
  return guest_->reports == nullptr ? abi::Report{} : guest_->reports->Total();
}

AllDevices Machine::devices() const {
  AllDevices all{.virtio = guest_->devices.Info(), .event_pages = {}};
  if (guest_->event_pages != nullptr) all.event_pages = guest_->event_pages->Info();
  return all;
}

size_t Machine::Type(std::string_view bytes) {
  // The devices are not started yet. Pairs with: Start.
  if (state() == VmState::kStarting) return 0;
  if (guest_->pc == nullptr) return bytes.size();
  return guest_->console != nullptr && LastConsoleIsHvc(options_.linux_guest->append)
             ? guest_->console->Receive(bytes)
             : guest_->pc->uart().Receive(bytes);
}

void Machine::SetTerminalSize(uint16_t columns, uint16_t rows) {
  if (guest_->pc != nullptr && guest_->console != nullptr) guest_->console->SetSize(columns, rows);
}

Stats Machine::GetStats() const {
  const MmuStats mmu = ram_->mmu().Stats();
  const abi::Report total = GuestReport();
  Stats stats;
  stats.vm.name = options_.name;
  stats.vm.vcpus = options_.vcpus;
  stats.vm.memory_bytes = options_.memory_bytes;
  stats.vm.uptime_us = static_cast<uint64_t>(absl::ToInt64Microseconds(MonotonicNow() - created_));
  stats.vm.kvm_vendor = vendor_;
  stats.guest.workload = options_.guest;
  stats.guest.pages_checked = total.pages_checked;
  stats.guest.mismatches =
      total.mismatches + (guest_->ring == nullptr ? 0 : guest_->ring->mismatches());
  stats.pfn_caches = mmu.pfn_caches;
  stats.stage2 = mmu.stage2;
  stats.notifier = mmu.notifier;
  stats.memslots = mmu.memslots;
  stats.rcu = mmu.rcu;
  stats.uffd = ram_->monitor().Stats();
  stats.kernel = ram_->kernel().Stats();
  stats.churn = churn_->engine.Stats();
  stats.audit = auditor_->Stats();
  if (working_set_ != nullptr) stats.working_set = working_set_->Stats();
  stats.devices = guest_->devices.Stats();
  stats.devices.checked = total.device_requests;
  if (guest_->balloon != nullptr) {
    stats.balloon = guest_->balloon->Stats();
    stats.guest_memory = guest_->balloon->GuestStats();
  }
  if (guest_->mem != nullptr) stats.hotplug = guest_->mem->Stats();
  if (guest_->event_pages != nullptr) stats.event_pages = guest_->event_pages->Stats();
  stats.event_pages.taken = total.events_taken;
  if (dirty_log_ != nullptr) stats.dirty_log = dirty_log_->Stats();
  stats.vm.state = state();
  stats.guest.verdict = verdict_.load(kAcquire);
  return stats;
}

}  // namespace underfoot
