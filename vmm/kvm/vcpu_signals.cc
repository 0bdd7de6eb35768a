#include "vmm/kvm/vcpu_signals.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <cerrno>

#include "absl/strings/str_cat.h"

namespace underfoot {
namespace {

// Written by this thread's SIGBUS handler and read by the thread. A signal handler may access only
// lock-free atomics. Relaxed, because both run in the same thread.
thread_local std::atomic<bool> watching{false};
thread_local std::atomic<bool> poisoned{false};
thread_local std::atomic<uint64_t> poisoned_hva{0};

struct sigaction previous_bus_action;

void OnKick(int) {}  // the arrival of the signal is enough: KVM_RUN returns EINTR

void PassOn(int signal, siginfo_t* info, void* context) {
  if ((previous_bus_action.sa_flags & SA_SIGINFO) != 0) {
    previous_bus_action.sa_sigaction(signal, info, context);
    return;
  }
  if (previous_bus_action.sa_handler == SIG_IGN) return;
  if (previous_bus_action.sa_handler != SIG_DFL) {
    previous_bus_action.sa_handler(signal);
    return;
  }
  // Restores the previous action, which ends the process by default; the access or the signal is
  // then repeated.
  sigaction(SIGBUS, &previous_bus_action, nullptr);
  if (info->si_code == BUS_MCEERR_AO || info->si_code <= 0) raise(SIGBUS);
}

void OnBus(int signal, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  const bool machine_check = info->si_code == BUS_MCEERR_AR || info->si_code == BUS_MCEERR_AO;
  if (machine_check && watching.load(std::memory_order_relaxed)) {
    poisoned_hva.store(HvaOf(info->si_addr).value, std::memory_order_relaxed);
    poisoned.store(true, std::memory_order_relaxed);
  } else {
    PassOn(signal, info, context);
  }
  errno = saved_errno;
}

absl::StatusOr<int> Install() {
  struct sigaction bus = {};
  bus.sa_sigaction = OnBus;
  bus.sa_flags = SA_SIGINFO;
  sigemptyset(&bus.sa_mask);
  if (sigaction(SIGBUS, &bus, &previous_bus_action) < 0) {
    return absl::ErrnoToStatus(errno, "sigaction(SIGBUS)");
  }
  for (int signal = SIGRTMAX; signal >= SIGRTMIN; --signal) {
    struct sigaction present;
    if (sigaction(signal, nullptr, &present) < 0) continue;
    if ((present.sa_flags & SA_SIGINFO) != 0 || present.sa_handler != SIG_DFL) continue;
    struct sigaction kick = {};
    kick.sa_handler = OnKick;  // without SA_RESTART: a kick must end KVM_RUN
    sigemptyset(&kick.sa_mask);
    if (sigaction(signal, &kick, nullptr) == 0) return signal;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("all real-time signals (", SIGRTMIN, " to ", SIGRTMAX,
                   ") have handlers: vCPU threads need one to be kicked out of the guest"));
}

}  // namespace

absl::StatusOr<int> VcpuKickSignal() {
  static const absl::StatusOr<int> signal = Install();
  return signal;
}

void SetVcpuThreadSignalMask(int kick_signal) {
  sigset_t blocked;
  sigfillset(&blocked);
  sigdelset(&blocked, kick_signal);
  // Synchronous signals must reach their handlers, or a crash would end the process without a
  // report.
  for (const int signal : {SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGABRT}) {
    sigdelset(&blocked, signal);
  }
  pthread_sigmask(SIG_SETMASK, &blocked, nullptr);
}

PoisonWatch::PoisonWatch() { watching.store(true, std::memory_order_relaxed); }

PoisonWatch::~PoisonWatch() { watching.store(false, std::memory_order_relaxed); }

std::optional<Hva> PoisonWatch::Take() {
  if (!poisoned.exchange(false, std::memory_order_relaxed)) return std::nullopt;
  return Hva{poisoned_hva.load(std::memory_order_relaxed)};
}

}  // namespace underfoot
