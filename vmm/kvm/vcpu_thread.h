// A thread that runs one vCPU and passes its exits to an ExitHandler.
//
//   Idle --Start--> Running <--Resume/Pause--> Paused        Stop, kStop, kFail: --> Ended
//
// A running guest is interrupted by `immediate_exit` (which covers the gap before KVM_RUN) and by a
// real-time signal (which ends KVM_RUN). The signal is repeated until the thread has reacted: a
// signal that arrives between two checks costs a millisecond, and never a hang.
//
// Thread safety: all functions may be called by any thread except the vCPU's own; Start only once.
// Pause and Stop are idempotent, and Stop overrides Pause. A handler must not call Pause, Stop or
// Join, because it would wait for itself, and must not block forever, because Pause waits for it.

#ifndef UNDERFOOT_VMM_KVM_VCPU_THREAD_H_
#define UNDERFOOT_VMM_KVM_VCPU_THREAD_H_

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/kvm/exits.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_signals.h"

namespace underfoot {

// Counts since the start. Each count is exact, but together they are not of one instant.
struct VcpuExits {
  uint64_t port_io = 0;
  uint64_t mmio = 0;
  uint64_t halts = 0;
  uint64_t interrupted = 0;
  uint64_t memory_faults = 0;
  uint64_t kicks = 0;  // signals sent
};

class VcpuThread {
 public:
  // `handler` must outlive this object. `cpu`: the only CPU that the thread runs on; absent: any.
  VcpuThread(Vcpu vcpu, ExitHandler& handler, std::optional<int> cpu = {});
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;
  ~VcpuThread();  // Stop and Join

  // Starts the thread in the state Running; or Paused, before the first guest instruction, if Pause
  // was called before.
  [[nodiscard]] absl::Status Start();

  // Returns when the vCPU has left the guest and no handler runs for it, or when it has ended.
  void Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  void Resume() ABSL_LOCKS_EXCLUDED(mutex_);

  // Requests the end. Returns when the vCPU has left the guest for good.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits for the end of the thread. Returns ok if the guest stopped or Stop was called.
  absl::Status Join() ABSL_LOCKS_EXCLUDED(mutex_);

  bool ended() const ABSL_LOCKS_EXCLUDED(mutex_);
  VcpuExits exits() const;
  unsigned index() const { return vcpu_.index(); }

  // The registers and other state; only before Start, while paused, or after the end.
  Vcpu& vcpu() { return vcpu_; }

 private:
  enum class Request : uint8_t { kRun, kPause, kStop };
  enum class State : uint8_t { kIdle, kRunning, kPaused, kEnded };
  // Relaxed: statistics. Each is written by one thread and ordered with no other data.
  struct Counters {
    std::atomic<uint64_t> port_io{0};
    std::atomic<uint64_t> mmio{0};
    std::atomic<uint64_t> halts{0};
    std::atomic<uint64_t> interrupted{0};
    std::atomic<uint64_t> memory_faults{0};
    std::atomic<uint64_t> kicks{0};
  };

  void Main(int kick_signal);
  // Waits while the vCPU is paused. Returns false if the vCPU must end.
  bool EnterAllowed() ABSL_LOCKS_EXCLUDED(mutex_);
  ExitOutcome RunOnce(PoisonWatch& poison, absl::Status& error);
  ExitOutcome Dispatch(absl::Status& error);
  ExitOutcome DispatchPortIo(absl::Status& error);
  ExitOutcome DispatchMmio(absl::Status& error);
  ExitOutcome DispatchMemoryFault(const MemoryFault& fault, absl::Status& error);
  void RequestAndWait(Request request) ABSL_LOCKS_EXCLUDED(mutex_);
  void KickUntilOut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool OutLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Vcpu vcpu_;
  ExitHandler& handler_;
  const std::optional<int> cpu_;
  Counters counters_;

  mutable absl::Mutex mutex_;
  Request request_ ABSL_GUARDED_BY(mutex_) = Request::kRun;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kIdle;
  absl::Status result_ ABSL_GUARDED_BY(mutex_);
  // Set together with request_, so that the vCPU thread takes the mutex only if there is a request.
  std::atomic<bool> attention_{false};

  absl::Mutex join_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
  pthread_t thread_id_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_KVM_VCPU_THREAD_H_
