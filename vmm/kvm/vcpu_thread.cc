#include "vmm/kvm/vcpu_thread.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "vmm/base/cpus.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/start_thread.h"
#include "vmm/kvm/fatal_exit.h"
#include "vmm/kvm/vcpu_signals.h"

namespace underfoot {
namespace {

// A vCPU reacts to a kick within about 0.3 ms. A kick that arrives between two checks has no
// effect.
constexpr absl::Duration kKickInterval = absl::Milliseconds(1);
constexpr absl::Duration kFirstLook = absl::Microseconds(100);

void Count(std::atomic<uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

uint64_t Load(const std::atomic<uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

}  // namespace

VcpuThread::VcpuThread(Vcpu vcpu, ExitHandler& handler, std::optional<int> cpu)
    : vcpu_(std::move(vcpu)), handler_(handler), cpu_(cpu) {}

VcpuThread::~VcpuThread() {
  Stop();
  // A caller that needs the result has called Join; here only the end of the thread matters.
  static_cast<void>(Join());
}

absl::Status VcpuThread::Start() {
  const absl::StatusOr<int> kick_signal = VcpuKickSignal();
  if (!kick_signal.ok()) return kick_signal.status();

  absl::MutexLock join_lock(&join_mutex_);
  if (thread_.joinable()) {
    return absl::FailedPreconditionError(
        absl::StrCat("vCPU ", index(), " was started already: a vCPU thread starts once"));
  }
  if (absl::Status started = StartThread(thread_, absl::StrCat("vCPU ", index()),
                                         [this, signal = *kick_signal] { Main(signal); });
      !started.ok()) {
    return started;
  }
  // From here on the thread can be kicked.
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(
      +[](VcpuThread* self) ABSL_NO_THREAD_SAFETY_ANALYSIS { return self->state_ != State::kIdle; },
      this));
  return absl::OkStatus();
}

void VcpuThread::Pause() { RequestAndWait(Request::kPause); }

void VcpuThread::Stop() { RequestAndWait(Request::kStop); }

void VcpuThread::Resume() {
  absl::MutexLock lock(&mutex_);
  if (request_ == Request::kPause) request_ = Request::kRun;
}

absl::Status VcpuThread::Join() {
  {
    absl::MutexLock lock(&join_mutex_);
    if (thread_.joinable()) thread_.join();
  }
  absl::MutexLock lock(&mutex_);
  return result_;
}

bool VcpuThread::ended() const {
  absl::MutexLock lock(&mutex_);
  return state_ == State::kEnded;
}

VcpuExits VcpuThread::exits() const {
  return {.port_io = Load(counters_.port_io),
          .mmio = Load(counters_.mmio),
          .halts = Load(counters_.halts),
          .interrupted = Load(counters_.interrupted),
          .memory_faults = Load(counters_.memory_faults),
          .kicks = Load(counters_.kicks)};
}

void VcpuThread::RequestAndWait(Request request) {
  absl::MutexLock lock(&mutex_);
  if (request_ != Request::kStop) request_ = request;
  // Release pairs with EnterAllowed's acquire. Without it no request is lost (the mutex carries the
  // request itself), but the thread could return because of a kick and not yet see the request.
  attention_.store(true, std::memory_order_release);
  vcpu_.RequestExit();
  if (state_ != State::kIdle) KickUntilOut();
}

void VcpuThread::KickUntilOut() {
  const absl::StatusOr<int> kick_signal = VcpuKickSignal();
  while (!OutLocked()) {
    // state_ becomes kEnded before the thread ends and is joined. OutLocked has not seen kEnded, so
    // the thread's id is still valid.
    if (pthread_kill(thread_id_, *kick_signal) == 0) Count(counters_.kicks);
    AwaitFor(mutex_, absl::Condition(this, &VcpuThread::OutLocked), kKickInterval, kFirstLook);
  }
}

// If another thread calls Resume, a Pause that is still waiting returns: nothing is left to wait
// for.
bool VcpuThread::OutLocked() const {
  switch (request_) {
    case Request::kRun:
      return true;
    case Request::kPause:
      return state_ == State::kPaused || state_ == State::kEnded;
    case Request::kStop:
      return state_ == State::kEnded;
  }
  return true;
}

void VcpuThread::Main(int kick_signal) {
  SetVcpuThreadSignalMask(kick_signal);
  pthread_setname_np(pthread_self(), absl::StrCat("vcpu", index()).c_str());
  if (cpu_.has_value()) PinThisThread(std::span(&*cpu_, 1));
  {
    absl::MutexLock lock(&mutex_);
    thread_id_ = pthread_self();
    state_ = State::kRunning;
  }
  PoisonWatch poison;
  absl::Status error;
  while (EnterAllowed()) {
    const ExitOutcome outcome = RunOnce(poison, error);
    if (outcome == ExitOutcome::kContinue) continue;
    if (outcome == ExitOutcome::kFail) handler_.OnFatal(index(), error);
    break;
  }
  absl::MutexLock lock(&mutex_);
  result_ = std::move(error);
  state_ = State::kEnded;
}

bool VcpuThread::EnterAllowed() {
  // Acquire: pairs with RequestAndWait's release.
  if (!attention_.load(std::memory_order_acquire)) return true;

  absl::MutexLock lock(&mutex_);
  if (request_ == Request::kPause) {
    state_ = State::kPaused;
    mutex_.Await(absl::Condition(
        +[](VcpuThread* self)
             ABSL_NO_THREAD_SAFETY_ANALYSIS { return self->request_ != Request::kPause; },
        this));
    state_ = State::kRunning;
  }
  if (request_ == Request::kStop) return false;
  // Under the mutex: otherwise this thread could clear the immediate_exit of a request that it has
  // not read.
  attention_.store(false, std::memory_order_relaxed);
  vcpu_.AllowEntry();
  return true;
}

ExitOutcome VcpuThread::RunOnce(PoisonWatch& poison, absl::Status& error) {
  switch (vcpu_.Run()) {
    case RunOutcome::kExit:
      return Dispatch(error);
    case RunOutcome::kInterrupted:
      Count(counters_.interrupted);
      if (const std::optional<Hva> hva = poison.Take()) {
        return DispatchMemoryFault({MemoryFaultKind::kPoisoned, hva}, error);
      }
      return ExitOutcome::kContinue;
    case RunOutcome::kMemoryFault: {
      const MemoryFaultKind kind =
          errno == EHWPOISON ? MemoryFaultKind::kPoisoned : MemoryFaultKind::kNoPage;
      return DispatchMemoryFault({kind, poison.Take()}, error);
    }
    case RunOutcome::kFailed:
      error = FatalRunError(vcpu_, errno);
      return ExitOutcome::kFail;
  }
  return ExitOutcome::kFail;
}

ExitOutcome VcpuThread::Dispatch(absl::Status& error) {
  switch (vcpu_.run().exit_reason) {
    case KVM_EXIT_IO:
      return DispatchPortIo(error);
    case KVM_EXIT_MMIO:
      return DispatchMmio(error);
    case KVM_EXIT_HLT:
      Count(counters_.halts);
      return handler_.OnHalt(index());
    case KVM_EXIT_INTR:
      Count(counters_.interrupted);
      return ExitOutcome::kContinue;
    default:
      error = FatalExit(vcpu_);
      return ExitOutcome::kFail;
  }
}

ExitOutcome VcpuThread::DispatchPortIo(absl::Status& error) {
  Count(counters_.port_io);
  kvm_run& run = vcpu_.run();
  const auto& io = run.io;
  // The kernel reports the offset of the data in the mapping of kvm_run.
  std::byte* data = static_cast<std::byte*>(static_cast<void*>(&run)) + io.data_offset;
  const PortIo access{.port = io.port,
                      .size = io.size,
                      .count = io.count,
                      .write = io.direction == KVM_EXIT_IO_OUT,
                      .data = {data, size_t{io.size} * io.count}};
  const ExitOutcome outcome = handler_.OnPortIo(index(), access);
  if (outcome == ExitOutcome::kFail) {
    error = absl::InternalError(
        absl::StrFormat("vCPU %u: nobody answers port %#x (%s of %u bytes)", index(), access.port,
                        access.write ? "write" : "read", static_cast<unsigned>(access.size)));
  }
  return outcome;
}

ExitOutcome VcpuThread::DispatchMmio(absl::Status& error) {
  Count(counters_.mmio);
  auto& mmio = vcpu_.run().mmio;
  const Gpa gpa{mmio.phys_addr};
  const size_t size = mmio.len < sizeof(mmio.data) ? mmio.len : sizeof(mmio.data);
  std::byte* data = static_cast<std::byte*>(static_cast<void*>(mmio.data));
  const bool write = mmio.is_write != 0;
  const absl::Status done = handler_.OnMmio(index(), gpa, {data, size}, write);
  if (done.ok()) return ExitOutcome::kContinue;
  error = absl::Status(
      done.code(), absl::StrFormat("vCPU %u: nobody answers gpa %#x (%s of %u bytes): %s", index(),
                                   gpa.value, write ? "write" : "read", size, done.message()));
  return ExitOutcome::kFail;
}

ExitOutcome VcpuThread::DispatchMemoryFault(const MemoryFault& fault, absl::Status& error) {
  Count(counters_.memory_faults);
  if (handler_.OnMemoryFault(index(), fault) == MemoryFaultOutcome::kRetry) {
    return ExitOutcome::kContinue;
  }
  const std::string where =
      fault.hva ? absl::StrFormat("hva %#x", fault.hva->value) : "an hva that KVM did not report";
  error = absl::InternalError(absl::StrFormat(
      "vCPU %u: the host has no page for the guest at %s (%s), so this vCPU cannot continue",
      index(), where,
      fault.kind == MemoryFaultKind::kPoisoned ? "hardware poison" : "KVM_RUN: EFAULT"));
  return ExitOutcome::kFail;
}

}  // namespace underfoot
