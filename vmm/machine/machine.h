// A virtual machine, put together: RAM and its coherence sources, vCPUs, devices, churn, audit.
//
//   Create -> Start -> (Pause, Resume)* -> RequestQuit or the duration's end -> Finish
//
// Teardown is the order of the members, last first, and ends with nothing outstanding.
//
// Thread safety: Start and Finish by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_MACHINE_MACHINE_H_
#define UNDERFOOT_VMM_MACHINE_MACHINE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/base/ordering.h"
#include "mmu/mmu.h"
#include "vmm/ageing/working_set.h"
#include "vmm/audit/auditor.h"
#include "vmm/audit/coverage.h"
#include "vmm/boot/guest_report.h"
#include "vmm/churn/engine.h"
#include "vmm/churn/operations.h"
#include "vmm/churn/tape.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/config/run_options.h"
#include "vmm/devices/event_pages.h"
#include "vmm/devices/pc_platform.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/port_devices.h"
#include "vmm/devices/ring_peer.h"
#include "vmm/devices/virtio/balloon.h"
#include "vmm/devices/virtio/block.h"
#include "vmm/devices/virtio/console.h"
#include "vmm/devices/virtio/disk.h"
#include "vmm/devices/virtio/mem.h"
#include "vmm/devices/virtio/mmio_bus.h"
#include "vmm/dirty/dirty_collector.h"
#include "vmm/evidence/event_log.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu_thread.h"
#include "vmm/machine/guest_exits.h"
#include "vmm/ram/guest_memory.h"
#include "vmm/sources/kernel/kernel_notifier.h"
#include "vmm/stats/device_info.h"
#include "vmm/stats/run_end.h"
#include "vmm/stats/stats.h"

namespace underfoot {

class Machine {
 public:
  // The bytes of a Linux guest's serial port and of its virtio console, as they come. Called by several
  // threads.
  using ByteSink = std::function<void(std::string_view bytes)>;

  // The error names what this host refused and the remedy. Nothing is left behind. With `byte_sink`
  // the output of a Linux guest goes there, otherwise to `serial_sink` line by line, as of vCPU 0.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const RunOptions& options,
                                                         SerialPort::Sink serial_sink,
                                                         ByteSink byte_sink = nullptr);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  [[nodiscard]] absl::Status Start();

  // Idempotent. FailedPrecondition once the machine ends or has stopped.
  [[nodiscard]] absl::Status Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  [[nodiscard]] absl::Status Resume() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns at once; the owner calls Finish.
  void RequestQuit() { guest_->exits.RequestQuit(); }

  // Input for a Linux guest: for its virtio console, if the kernel's command line names that as its
  // last console, and otherwise for the serial port. Returns how many bytes of it were taken: none
  // before Start.
  size_t Type(std::string_view bytes);
  // The size of its terminal, for the virtio console; 0 x 0: not known.
  void SetTerminalSize(uint16_t columns, uint16_t rows);

  // True when quit was asked for, when all vCPUs have ended, or when a Linux guest has switched the
  // machine off or reset it; false when `timeout` came first.
  bool WaitForEnd(absl::Duration timeout) { return guest_->exits.WaitForAllOrQuit(timeout); }

  // How far the guest's last look at its pages has got.
  struct EndProgress {
    uint64_t checked = 0;
    uint64_t pages = 0;  // that the guest owns
  };
  // Called a few times a second while the machine waits for the guest. Returning false ends the
  // wait.
  using GoOn = std::function<bool(const EndProgress&)>;

  // Stops the churn, lets the guest verify its pages once more and write its verdict (a Linux guest
  // has none to write: its verdict is how it has ended), stops everything else, and audits every
  // page. Returns ok if the verdict is good and nothing is left
  // over, and otherwise the first of problems(). It waits as long as the guest makes progress: see
  // RunOptions::end_timeout.
  [[nodiscard]] absl::Status Finish(const GoOn& go_on = nullptr) ABSL_LOCKS_EXCLUDED(mutex_);
  // After Finish: everything that was wrong.
  const std::vector<RunProblem>& problems() const { return problems_; }
  // What has failed already while the machine still runs: a vCPU, the dirty log, the churn, the
  // record.
  std::vector<RunProblem> Failures() const;
  // After Finish: a worker is inside a system call that does not return. Its thread, the guest's
  // memory and the devices stay behind until the process ends, also after the destructor.
  bool left_behind() const { return !hanging_.empty(); }

  Stats GetStats() const;
  VmState state() const { return state_.load(kAcquire); }
  const RunOptions& options() const { return options_; }
  Mmu& mmu() { return ram_->mmu(); }
  const GuestMemory& memory() const { return ram_->memory(); }
  ChurnEngine& churn() { return churn_->engine; }
  ReplayStats replay() const { return churn_->tape.Replay(); }
  const EventLog& events() const { return ram_->events(); }
  CoverageMatrix coverage() const { return coverage_.Matrix(); }
  AllDevices devices() const;
  bool has_balloon() const { return guest_->balloon != nullptr; }
  // Asks the guest to give this much memory back. The machine has a balloon.
  [[nodiscard]] absl::Status SetBalloon(uint64_t bytes) {
    return guest_->balloon->SetTarget(bytes);
  }
  // Has the guest report about its memory, if its balloon driver does so.
  void AskForGuestMemory() {
    if (has_balloon()) guest_->balloon->AskForStatistics();
  }
  bool has_hotplug() const { return guest_->mem != nullptr; }
  // Asks the guest to have this much memory plugged. The machine has room for some.
  [[nodiscard]] absl::Status SetHotplug(uint64_t bytes) { return guest_->mem->SetRequested(bytes); }
  // Null: nothing is sampled.
  WorkingSet* working_set() { return working_set_.get(); }
  // Null: writes are not logged.
  DirtyCollector* dirty_log() { return dirty_log_.get(); }
  KernelNotifier& kernel() { return ram_->kernel(); }
  const std::string& vendor() const { return vendor_; }
  bool real_pfns() const { return ram_->pagemap().real_pfns(); }

 private:
  // The guest, and what it reaches by its exits and in its memory.
  struct Guest {
    Guest(const RunOptions& options, CoherentRam& ram, std::unique_ptr<Platform> own,
          std::unique_ptr<PcPlatform> linux);

    // One of the two, by the guest.
    const std::unique_ptr<Platform> platform;
    const std::unique_ptr<PcPlatform> pc;
    virtio::MmioBus devices;
    virtio::Block* disk = nullptr;       // the first of `devices`; null: there is none
    virtio::Balloon* balloon = nullptr;  // of `devices`; null: there is none
    virtio::Mem* mem = nullptr;          // of `devices`; null: no memory can be plugged
    virtio::Console* console = nullptr;  // of `devices`; null: there is none
    GuestExits exits;
    std::unique_ptr<GuestReports> reports;    // null: a Linux guest reports nothing
    std::unique_ptr<RingPeer> ring;           // null: a Linux guest has no shared page
    std::unique_ptr<EventPages> event_pages;  // null: nor these
    std::vector<std::unique_ptr<VcpuThread>> vcpus;
  };
  // What moves the guest's memory on purpose.
  struct Churn {
    Churn(const RunOptions& options, CoherentRam& ram, Vm& vm, Coverage& coverage, KvmGate gate);

    ChurnOperations operations;
    ChurnTape tape;
    ChurnEngine engine;
  };

  Machine(const RunOptions& options, Vm vm);
  // Constructs the parts; only the memory can be refused.
  absl::Status Build(SerialPort::Sink serial_sink, ByteSink byte_sink);
  std::unique_ptr<PcPlatform> MakePcPlatform(SerialPort::Sink serial_sink, ByteSink byte_sink);
  absl::Status Prepare(const Kvm& kvm);
  absl::Status AddDevices();
  absl::Status AddDisk(absl::StatusOr<std::unique_ptr<virtio::RawDisk>> disk);
  void AddConsole();
  absl::Status AddSlots();
  // Sets the first registers of a vCPU.
  using StartVcpu = std::function<absl::Status(Vcpu& vcpu)>;
  absl::StatusOr<StartVcpu> LoadTestGuest();
  absl::StatusOr<StartVcpu> LoadLinuxGuest(const Kvm& kvm);
  absl::Status CreateVcpus(const Kvm& kvm, const StartVcpu& start);
  // The reports of all vCPUs, or zeroes of a guest that reports nothing.
  abi::Report GuestReport() const;
  absl::Status StartKernelNotifier();
  absl::Status WaitForGuest(const GoOn& go_on) const;
  void CheckGuest(GuestVerdict verdict, const absl::Status& waited);
  void CheckLinux();
  bool LinuxPanicked() const;
  void CheckMachine();
  void CheckDisk();
  void CheckDirtyLog();
  EndProgress Progress() const;
  void Wrong(std::string text) { problems_.push_back({RunEnd::kWrong, std::move(text)}); }
  GuestVerdict VerdictOfGuest() const;
  void ResumeForGood() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WithVcpusOut(const std::function<absl::Status()>& change)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void StopVcpus();
  void StopDevices();

  const RunOptions options_;
  const std::string vendor_;
  const absl::Duration created_;  // MonotonicNow
  Coverage coverage_;             // receives the events of ram_, so it goes after it
  Vm vm_;
  ByteSink terminal_;  // of a Linux guest; null: it has none
  std::unique_ptr<CoherentRam> ram_;
  std::unique_ptr<WorkingSet> working_set_;  // null: nothing is sampled
  std::unique_ptr<Guest> guest_;
  std::unique_ptr<DirtyCollector> dirty_log_;  // null: writes are not logged
  std::unique_ptr<Churn> churn_;
  std::unique_ptr<Auditor> auditor_;

  // Guards: the state. Order: outermost of vmm/. Held across pausing and resuming of vCPUs, and
  // across a change of KVM's memslots while they stand.
  absl::Mutex mutex_;
  // Written with mutex_ held and read without it, since a memslot change may hold it for seconds and
  // a client's request must not wait. Pairs with: state, GetStats. Without it: a thread that reads
  // kStopped may not see the verdict.
  std::atomic<VmState> state_{VmState::kStarting};
  std::atomic<GuestVerdict> verdict_{GuestVerdict::kPending};
  std::vector<RunProblem> problems_;  // of the owner's thread
  std::vector<std::string>
      hanging_;  // queues whose worker could not be stopped; of the owner's thread
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_MACHINE_H_
