#include "vmm/cli/run.h"

#include <errno.h>  // program_invocation_name
#include <signal.h>

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/rcu.h"
#include "vmm/census.h"
#include "vmm/churn/host_needs.h"
#include "vmm/churn/script.h"
#include "vmm/cli/command.h"
#include "vmm/cli/console.h"
#include "vmm/cli/status_line.h"
#include "vmm/cli/summary.h"
#include "vmm/cli/units.h"
#include "vmm/control/server.h"
#include "vmm/control/socket_path.h"
#include "vmm/host/host_changes.h"
#include "vmm/machine.h"
#include "vmm/machine_control.h"

namespace underfoot {
namespace {

constexpr absl::Duration kStatusPeriod = absl::Milliseconds(250);

// SIGINT and SIGTERM as something to ask for, not as something that happens. Made before other
// threads, which inherit the mask.
class EndSignals {
 public:
  EndSignals() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, &before_);
  }
  ~EndSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  bool Arrived() const {
    const timespec now{};
    return sigtimedwait(&signals_, nullptr, &now) > 0;
  }

 private:
  sigset_t signals_{};
  sigset_t before_{};
};

std::string Announcement(const RunOptions& options, const Machine& machine,
                         const std::string& socket) {
  return absl::StrFormat(
      "%s: %d vCPUs, %s of %s memory, guest %s, churn %s, seed %d, on %s%s\n"
      "control socket %s; from another terminal: underfoot stats --watch",
      options.name, options.vcpus, FormatBytes(options.memory_bytes), BackingName(options.backing),
      options.guest, options.churn.text, options.seed, machine.vendor(),
      machine.real_pfns() ? "" : " (no CAP_SYS_ADMIN: hva page numbers stand in for pfns)", socket);
}

void RunUntilTheEnd(const RunOptions& options, Machine& machine, const EndSignals& signals,
                    Console& console) {
  const absl::Time end = options.duration.count() == 0
                             ? absl::InfiniteFuture()
                             : absl::Now() + absl::FromChrono(options.duration);
  Stats before = machine.GetStats();
  while (absl::Now() < end && !signals.Arrived()) {
    if (machine.WaitForEnd(std::min(kStatusPeriod, end - absl::Now()))) return;
    if (!console.terminal()) continue;
    Stats now = machine.GetStats();
    console.Status(StatusLine(now, before, console.columns() - 1));
    before = std::move(now);
  }
}

// The whole life of a machine; what it leaves behind is the caller's to count.
absl::StatusOr<RunSummary> LiveAndEnd(const RunOptions& options, const EndSignals& signals,
                                      Console& console) {
  absl::StatusOr<std::unique_ptr<Machine>> machine =
      Machine::Create(options, [&console](unsigned vcpu, std::string_view line) {
        console.Line(absl::StrFormat("[vcpu %d] %s", vcpu, line));
      });
  if (!machine.ok()) return std::move(machine).status();
  MachineControl control(**machine);
  ControlServerOptions server_options;
  server_options.path = options.control_path.empty()
                            ? DefaultSocketPath(options.name, SocketEnvironment::OfThisProcess())
                            : options.control_path;
  absl::StatusOr<std::unique_ptr<ControlServer>> server =
      ControlServer::Start(&control, server_options);
  if (!server.ok()) return std::move(server).status();
  if (absl::Status started = (*machine)->Start(); !started.ok()) return started;
  console.Line(Announcement(options, **machine, (*server)->path()));
  RunUntilTheEnd(options, **machine, signals, console);
  console.Status("the guest verifies once more, then every page is audited");
  const absl::Status finished = (*machine)->Finish();
  console.Status("");
  RunSummary summary;
  summary.stats = (*machine)->GetStats();
  summary.control_path = (*server)->path();
  summary.program = program_invocation_name;
  if (!options.replay_path.empty()) summary.replay = (*machine)->replay();
  for (const auto& [kind, why] : options.unavailable_churn) {
    if (options.churn.preset) summary.skipped[kind] = why;
  }
  summary.coverage = (*machine)->coverage();
  summary.problems = ProblemsIn(summary.stats, summary.coverage);
  if (!finished.ok()) summary.problems.emplace_back(finished.message());
  return summary;
}

// What a run that was killed has changed is put back before this one looks at the host.
absl::Status RestoreHost(Console& console) {
  const absl::StatusOr<RestoredHost> restored = HostJournal::RestoreLeftovers();
  if (!restored.ok()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("an earlier run has changed this host, and it cannot be put back: %s; try "
                        "`underfoot doctor "
                        "--restore` as root",
                        std::string(restored.status().message())));
  }
  for (const std::string& line : restored->put_back) {
    console.Line("host: put back what a killed run had left: " + line);
  }
  for (const std::string& line : restored->left_alone) console.Line("host: left alone: " + line);
  return absl::OkStatus();
}

// What the host is asked for: the kinds of the churn, or of what is repeated in its place.
absl::StatusOr<ChurnRates> KindsWanted(const RunOptions& options) {
  if (options.replay_path.empty()) return options.churn.rates;
  const absl::StatusOr<Script> script = Script::Read(options.replay_path);
  if (!script.ok()) return script.status();
  ChurnRates kinds;
  for (const ScriptedOperation& operation : script->operations) kinds[operation.step.kind] = 1;
  return kinds;
}

// The options with the churn that this host can do; what a preset must go without is announced.
absl::StatusOr<RunOptions> FitChurnToHost(RunOptions options, HostChanges* changes,
                                          Console& console) {
  const absl::StatusOr<ChurnRates> wanted = KindsWanted(options);
  if (!wanted.ok()) return wanted.status();
  ChurnLimits limits = ProvideForChurn(options.backing, options.memory_bytes, *wanted, changes);
  ChurnLimits chosen{options.backing};  // what the other options cost has left the rates already
  options.Limit(chosen);
  options.Limit(limits);
  const bool some = options.churn.preset && !options.churn.rates.empty();
  for (const auto& [kind, why] : limits.unavailable) {
    if (!options.replay_path.empty() && wanted->count(kind) != 0) {
      console.Line(
          absl::StrFormat("replay: %s may come out differently: %s", ChurnKindName(kind), why));
    }
    if (some && options.churn.rates.count(kind) + chosen.unavailable.count(kind) != 0) {
      console.Line(absl::StrFormat("churn: %s is skipped: %s", ChurnKindName(kind), why));
    }
  }
  absl::StatusOr<ChurnRates> rates = ResolveChurn(options.churn, limits);
  if (!rates.ok()) return std::move(rates).status();
  options.churn.rates = *std::move(rates);
  options.unavailable_churn = limits.unavailable;
  return options;
}

absl::StatusOr<RunSummary> RunOnHost(const RunOptions& asked, const EndSignals& signals,
                                     Console& console) {
  if (absl::Status restored = RestoreHost(console); !restored.ok()) return restored;
  HostChanges changes([&console](std::string_view line) { console.Line(std::string(line)); });
  if (asked.allow_host_changes && asked.kernel_events != KernelEvents::kOff) {
    if (absl::Status mounted = changes.MountTracefs(); !mounted.ok()) return mounted;
  }
  absl::StatusOr<RunOptions> options =
      FitChurnToHost(asked, asked.allow_host_changes ? &changes : nullptr, console);
  if (!options.ok()) return std::move(options).status();
  absl::StatusOr<RunSummary> summary = LiveAndEnd(*options, signals, console);
  if (absl::Status put_back = changes.PutBack(); !put_back.ok() && summary.ok()) {
    summary->problems.push_back("the host is not as it was: " + std::string(put_back.message()));
  }
  return summary;
}

}  // namespace

int RunMachine(const RunOptions& options) {
  Console console(options.json ? stderr : stdout);
  const EndSignals signals;
  rcu::StartWorker();
  const Census before = Census::Take();
  absl::StatusOr<RunSummary> summary = RunOnHost(options, signals, console);
  if (!summary.ok()) {
    std::cerr << "underfoot run: " << std::string(summary.status().message()) << "\n";
    return kExitFailure;
  }
  for (std::string& line : LeftBehind(before)) {
    summary->problems.push_back(std::move(line));
  }
  std::cout << (options.json ? SummaryJson(*summary) : SummaryText(*summary)) << std::flush;
  return summary->passed() ? kExitOk : kExitFailure;
}

}  // namespace underfoot
