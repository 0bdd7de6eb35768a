#include "vmm/vcpu_thread.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstddef>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "vmm/fatal_exit.h"
#include "vmm/vcpu_signals.h"

namespace underfoot {
namespace {

// A kick is answered in some 0.3 ms; one that came between two checks is not answered at all.
constexpr absl::Duration kKickInterval = absl::Milliseconds(1);

void Count(std::atomic<uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

uint64_t Load(const std::atomic<uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

}  // namespace

VcpuThread::VcpuThread(Vcpu vcpu, ExitHandler& handler)
    : vcpu_(std::move(vcpu)), handler_(handler) {}

VcpuThread::~VcpuThread() {
  Stop();
  // Whoever wants the result has called Join; here only the thread's end counts.
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
  try {
    thread_ = std::thread([this, signal = *kick_signal] { Main(signal); });
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no thread for vCPU ", index(), ": ", error.what()));
  }
  // From here on kicks have somewhere to go.
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
  // Release pairs with EnterAllowed's acquire; without it nothing is lost for good (the mutex
  // carries the request itself), but a kick could be answered without being understood.
  attention_.store(true, std::memory_order_release);
  vcpu_.RequestExit();
  if (state_ != State::kIdle) KickUntilOut();
}

void VcpuThread::KickUntilOut() {
  const absl::StatusOr<int> kick_signal = VcpuKickSignal();
  while (!OutLocked()) {
    // An ended thread is still joinable here, so its id is good: state_ says kEnded before.
    if (pthread_kill(thread_id_, *kick_signal) == 0) Count(counters_.kicks);
    mutex_.AwaitWithTimeout(absl::Condition(this, &VcpuThread::OutLocked), kKickInterval);
  }
}

// A Resume by another thread ends a Pause that still waits: there is nothing left to wait for.
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
  // Acquire pairs with RequestAndWait's release.
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
  // Under the mutex, so that no request is answered by taking back its immediate_exit.
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
  // The kernel tells where in the mapping of kvm_run the data lie.
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
      fault.hva ? absl::StrFormat("hva %#x", fault.hva->value) : "an hva that the kernel kept";
  error = absl::InternalError(absl::StrFormat(
      "vCPU %u: the host has no page for the guest at %s (%s), and the memory side gave up",
      index(), where,
      fault.kind == MemoryFaultKind::kPoisoned ? "hardware poison" : "KVM_RUN: EFAULT"));
  return ExitOutcome::kFail;
}

}  // namespace underfoot
