// A thread that runs one vCPU and hands its exits to an ExitHandler.
//
//   Idle --Start--> Running <--Resume/Pause--> Paused        Stop, kStop, kFail: --> Ended
//
// A running guest is fetched out by `immediate_exit` (closes the gap before KVM_RUN) and a
// real-time signal (ends KVM_RUN), sent again until the thread has answered: a signal that falls
// between two checks costs a millisecond, not a hang.
//
// Thread safety: all functions, from any thread but the vCPU's own; Start once. Pause and Stop are
// idempotent; Stop wins over Pause. A handler must not call Pause, Stop or Join (it would wait for
// itself), and must not block for ever: Pause waits for it.

#ifndef UNDERFOOT_VMM_VCPU_THREAD_H_
#define UNDERFOOT_VMM_VCPU_THREAD_H_

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "vmm/exits.h"
#include "vmm/vcpu.h"
#include "vmm/vcpu_signals.h"

namespace underfoot {

// Counts since the start, one reader's view: each is exact, together they are not one instant.
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
  // `handler` outlives this object.
  VcpuThread(Vcpu vcpu, ExitHandler& handler);
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;
  ~VcpuThread();  // Stop and Join

  // Starts the thread, Running; or Paused, before the first guest instruction, if Pause came first.
  [[nodiscard]] absl::Status Start();

  // Returns when the vCPU is out of the guest and no handler runs for it, or when it has ended.
  void Pause() ABSL_LOCKS_EXCLUDED(mutex_);
  void Resume() ABSL_LOCKS_EXCLUDED(mutex_);

  // Asks for the end, and returns when the vCPU is out of the guest for good.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Waits for the end of the thread. Ok when the guest stopped or Stop was called.
  absl::Status Join() ABSL_LOCKS_EXCLUDED(mutex_);

  bool ended() const ABSL_LOCKS_EXCLUDED(mutex_);
  VcpuExits exits() const;
  unsigned index() const { return vcpu_.index(); }

  // Registers and such: only before Start, while paused or after the end.
  Vcpu& vcpu() { return vcpu_; }

 private:
  enum class Request : uint8_t { kRun, kPause, kStop };
  enum class State : uint8_t { kIdle, kRunning, kPaused, kEnded };
  // Relaxed: statistics, each written by one thread, ordered with nothing.
  struct Counters {
    std::atomic<uint64_t> port_io{0};
    std::atomic<uint64_t> mmio{0};
    std::atomic<uint64_t> halts{0};
    std::atomic<uint64_t> interrupted{0};
    std::atomic<uint64_t> memory_faults{0};
    std::atomic<uint64_t> kicks{0};
  };

  void Main(int kick_signal);
  // Takes part in pauses; false when the vCPU must end.
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
  Counters counters_;

  mutable absl::Mutex mutex_;
  Request request_ ABSL_GUARDED_BY(mutex_) = Request::kRun;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kIdle;
  absl::Status result_ ABSL_GUARDED_BY(mutex_);
  // Set with request_, so that the vCPU thread takes the mutex only when something is asked.
  std::atomic<bool> attention_{false};

  absl::Mutex join_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
  pthread_t thread_id_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_VCPU_THREAD_H_
