// A virtual machine, put together: RAM and its coherence sources, vCPUs, devices, churn, audit.
//
//   Create -> Start -> (Pause, Resume)* -> RequestQuit or the duration's end -> Finish
//
// Teardown is the order of the members, last first, and ends with nothing outstanding.
//
// Thread safety: Start and Finish by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_MACHINE_H_
#define UNDERFOOT_VMM_MACHINE_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/mmu.h"
#include "mmu/ordering.h"
#include "vmm/ageing/working_set.h"
#include "vmm/churn/engine.h"
#include "vmm/churn/operations.h"
#include "vmm/coverage/coverage.h"
#include "vmm/devices/platform.h"
#include "vmm/devices/ring_peer.h"
#include "vmm/guest_exits.h"
#include "vmm/guest_report.h"
#include "vmm/kvm.h"
#include "vmm/memory/auditor.h"
#include "vmm/memory/event_log.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/guest_access.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/guest_page_source.h"
#include "vmm/memory/kernel_notifier.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/mmap_barrier.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_monitor.h"
#include "vmm/memory/userfaultfd.h"
#include "vmm/run_options.h"
#include "vmm/stats.h"
#include "vmm/vcpu_thread.h"

namespace underfoot {

class Machine {
 public:
  // The error names what this host refused and the remedy. Nothing is left behind.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const RunOptions& options,
                                                         SerialPort::Sink serial_sink);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  [[nodiscard]] absl::Status Start();

  // Idempotent. FailedPrecondition once the machine ends or has stopped.
  [[nodiscard]] absl::Status Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  [[nodiscard]] absl::Status Resume() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns at once; the owner calls Finish.
  void RequestQuit() { exits_.RequestQuit(); }

  // True when quit was asked for or all vCPUs have ended, false when `timeout` came first.
  bool WaitForEnd(absl::Duration timeout) { return exits_.WaitForAllOrQuit(timeout); }

  // Lets the guest verify once more and leave its verdict, stops everything, audits every page. Ok
  // when the verdict is good and nothing is left over; else says what is wrong.
  [[nodiscard]] absl::Status Finish() ABSL_LOCKS_EXCLUDED(mutex_);

  Stats GetStats() const;
  VmState state() const { return state_.load(kAcquire); }
  const RunOptions& options() const { return options_; }
  Mmu& mmu() { return mmu_; }
  const GuestMemory& memory() const { return *memory_; }
  ChurnEngine& churn() { return churn_; }
  ReplayStats replay() const { return tape_.Replay(); }
  const EventLog& events() const { return events_; }
  CoverageMatrix coverage() const { return coverage_.Matrix(); }
  // Null: nothing is sampled.
  WorkingSet* working_set() { return working_set_.get(); }
  KernelNotifier& kernel() { return kernel_; }
  const std::string& vendor() const { return vendor_; }
  bool real_pfns() const { return pagemap_.real_pfns(); }

 private:
  // What Create has opened; the rest cannot fail.
  struct Parts {
    Kvm kvm;
    Vm vm;
    Userfaultfd uffd;
    Pagemap pagemap;
    std::unique_ptr<GuestMemory> memory;
  };

  Machine(const RunOptions& options, Parts parts, SerialPort::Sink serial_sink);
  absl::Status Prepare();
  void PrepareWorkingSet();
  absl::Status AddSlots();
  absl::Status LoadGuest();
  absl::Status CreateVcpus();
  absl::Status StartKernelNotifier();
  absl::Status Verdict() const;
  absl::Status CheckNothingLeft() const;
  void ResumeForGood() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WithVcpusOut(const std::function<absl::Status()>& change)
      ABSL_LOCKS_EXCLUDED(mutex_);
  void StopVcpus();

  const RunOptions options_;
  const std::string vendor_;
  const absl::Time created_;
  Kvm kvm_;
  Vm vm_;
  std::unique_ptr<GuestMemory> memory_;
  // Goes before the memory: an unmap would wait for somebody to read its event.
  Userfaultfd uffd_;
  Pagemap pagemap_;
  Coverage coverage_;
  EventLog events_;
  SettlingRanges settling_;
  MmapBarrier mmap_barrier_;
  LazyFrees lazy_;
  ExpectedEvents expected_;
  GuestPageSource source_;
  Mmu mmu_;
  KernelNotifier kernel_;
  MmHooks hooks_;
  std::unique_ptr<WorkingSet> working_set_;
  GuestAccess access_;
  UffdMonitor monitor_;
  Platform platform_;
  GuestExits exits_;
  GuestReports reports_;
  RingPeer ring_;
  ChurnOperations operations_;
  ChurnTape tape_;
  ChurnEngine churn_;
  Auditor auditor_;
  Gpa entry_;
  std::vector<std::unique_ptr<VcpuThread>> vcpus_;

  // Guards: the state. Order: outermost of vmm/. Held across pausing and resuming of vCPUs, and
  // across a change of KVM's memslots while they stand.
  absl::Mutex mutex_;
  // Written with mutex_ held; read without, since a memslot change may hold it for seconds, and a
  // client that asks waits for nobody. Pairs with: state, GetStats. Without it: who sees the
  // machine stopped does not see its verdict.
  std::atomic<VmState> state_{VmState::kStarting};
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<GuestVerdict> verdict_{GuestVerdict::kPending};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MACHINE_H_
