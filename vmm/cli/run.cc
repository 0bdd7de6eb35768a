#include "vmm/cli/run.h"

#include <errno.h>  // program_invocation_name
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "mmu/base/rcu.h"
#include "vmm/base/monotonic.h"
#include "vmm/base/start_thread.h"
#include "vmm/churn/host_needs.h"
#include "vmm/churn/script.h"
#include "vmm/cli/command.h"
#include "vmm/cli/console.h"
#include "vmm/cli/doctor.h"
#include "vmm/cli/end_signals.h"
#include "vmm/cli/guest_terminal.h"
#include "vmm/cli/output.h"
#include "vmm/cli/status_line.h"
#include "vmm/cli/summary.h"
#include "vmm/cli/units.h"
#include "vmm/control/listener.h"
#include "vmm/control/server.h"
#include "vmm/control/socket_path.h"
#include "vmm/host/host_changes.h"
#include "vmm/host/huge_page_host.h"
#include "vmm/kvm/kvm.h"
#include "vmm/machine/census.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_control.h"
#include "vmm/machine/run_inputs.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/stats/run_end.h"

namespace underfoot {
namespace {

constexpr absl::Duration kStatusPeriod = absl::Milliseconds(250);

// The things that must be undone if the run is ended at once, which happens in another thread.
class Scene {
 public:
  void SetSocket(std::string path) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    socket_ = std::move(path);
  }
  // Changes the host, or undoes changes, with the lock held: an immediate end waits for it.
  template <class Change>
  auto WithHost(const Change& change) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    return change();
  }
  // The terminal whose mode must be given back; nullptr: none any more.
  void SetTerminal(const GuestTerminal* terminal) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    terminal_ = terminal;
  }
  // `changes` may be null: then the run may not change the host.
  void Leave(HostChanges* changes) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (terminal_ != nullptr) terminal_->Restore();
    if (!socket_.empty()) static_cast<void>(unlink(socket_.c_str()));
    const absl::Status put_back = changes == nullptr ? absl::OkStatus() : changes->PutBack();
    const std::string line =
        put_back.ok() ? "underfoot run: ended at once, without a verdict; the host is as it was\n"
                      : absl::StrFormat(
                            "underfoot run: the changes of this host are not undone: %s; run "
                            "`underfoot doctor --restore` as root; ended at once, no verdict\n",
                            std::string(put_back.message()));
    WriteIfTaken(STDERR_FILENO, line);
  }

 private:
  // Guards: the changes of the host. Order: after the lock of EndSignals, before that of the
  // console.
  absl::Mutex mutex_;
  std::string socket_ ABSL_GUARDED_BY(mutex_);
  const GuestTerminal* terminal_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

std::string HugePagesNote(const RunOptions& options) {
  if (options.huge_pages == HugePages::kOff) return "";
  return absl::StrFormat(" in huge pages (%s)", HugePagesName(options.huge_pages));
}

std::string Announcement(const RunOptions& options, const Machine& machine,
                         const std::string& socket) {
  return absl::StrFormat(
      "%s: %s, %s of %s memory%s, guest %s, %s, seed %d, on %s%s\n"
      "control socket %s; from another terminal: underfoot stats --watch --control %s",
      options.name, Counted(options.vcpus, "vCPU"), FormatBytes(options.memory_bytes),
      BackingName(options.backing), HugePagesNote(options), options.guest,
      options.replay_path.empty() ? "churn " + options.churn.text
                                  : "the churn of " + options.replay_path,
      options.seed, machine.vendor(),
      machine.real_pfns() ? "" : " (no CAP_SYS_ADMIN: hva page numbers stand in for pfns)", socket,
      socket);
}

// Prints each failure when it happens; it determines the result at the end.
void PrintNewFailures(const Machine& machine, std::set<std::string>& printed, Console& console) {
  for (const RunProblem& failure : machine.Failures()) {
    if (printed.insert(failure.text).second) console.Line("run: " + failure.text);
  }
}

// A run works without the kernel's records; the warning names what it cannot do then.
void WarnOfMissingRecords() {
  std::cerr << DoctorWarnings(CheckKernelRecords(), "underfoot run: ");
}

bool UsesConsole(const RunOptions& options) {
  return options.RunsLinux() && options.linux_guest->console;
}

void RunUntilTheEnd(const RunOptions& options, Machine& machine, const EndSignals& signals,
                    Console& console) {
  const absl::Duration end = options.duration.count() == 0
                                 ? absl::InfiniteDuration()
                                 : MonotonicNow() + absl::FromChrono(options.duration);
  Stats before = machine.GetStats();
  std::set<std::string> printed;
  while (MonotonicNow() < end && signals.Count() == 0) {
    if (machine.WaitForEnd(std::min(kStatusPeriod, end - MonotonicNow()))) return;
    PrintNewFailures(machine, printed, console);
    if (!console.terminal() || UsesConsole(options)) continue;
    Stats now = machine.GetStats();
    console.Status(StatusLine(now, before, console.columns() - 1));
    before = std::move(now);
  }
}

// If the operator interrupts a run that is already ending, it no longer waits for the guest.
absl::Status EndWithVerdict(Machine& machine, const EndSignals& signals, Console& console) {
  const int signals_before = signals.Count();
  console.Status(machine.options().RunsLinux()
                     ? "ending: every page is audited"
                     : "ending: the guest verifies once more, then every page is audited");
  const absl::Status finished = machine.Finish([&](const Machine::EndProgress& progress) {
    console.Status(absl::StrFormat(
        "ending: the guest has verified %d of %d pages; interrupt again to wait no longer",
        progress.checked, progress.pages));
    return signals.Count() == signals_before;
  });
  console.Status("");
  return finished;
}

// Null: the run uses no console.
absl::StatusOr<std::unique_ptr<GuestTerminal>> TerminalFor(const RunOptions& options,
                                                           Machine& machine, Scene& scene) {
  if (!UsesConsole(options)) return nullptr;
  absl::StatusOr<std::unique_ptr<GuestTerminal>> terminal = GuestTerminal::Start(
      STDIN_FILENO,
      {.type = [&machine](std::string_view typed) { return machine.Type(typed); },
       .quit = [&machine] { machine.RequestQuit(); },
       .resize = [&machine](uint16_t columns,
                            uint16_t rows) { machine.SetTerminalSize(columns, rows); }});
  if (terminal.ok()) scene.SetTerminal(terminal->get());
  return terminal;
}

// Runs one machine from its creation to its end. The caller checks what it has left behind.
absl::StatusOr<RunSummary> LiveAndEnd(const RunOptions& options, const EndSignals& signals,
                                      Scene& scene, Console& console) {
  Machine::ByteSink bytes;
  if (UsesConsole(options)) {
    bytes = [&console](std::string_view output) { console.GuestBytes(output); };
  }
  absl::StatusOr<std::unique_ptr<Machine>> machine = Machine::Create(
      options, [&console](unsigned vcpu, std::string_view line) { console.GuestLine(vcpu, line); },
      std::move(bytes));
  if (!machine.ok()) return std::move(machine).status();
  MachineControl control(**machine);
  // Declared before the server, so it runs after the server's destructor. Until the server has
  // removed its socket, an immediate end must remove it.
  const absl::Cleanup socket_is_gone = [&scene] { scene.SetSocket(""); };
  ControlServerOptions server_options;
  server_options.path = options.control_path.empty()
                            ? DefaultSocketPath(options.name, SocketEnvironment::OfThisProcess())
                            : options.control_path;
  absl::StatusOr<std::unique_ptr<ControlServer>> server =
      ControlServer::Start(&control, server_options);
  if (!server.ok()) return std::move(server).status();
  scene.SetSocket((*server)->path());
  {
    // Before Start, which runs the guest and begins the record: it can be refused.
    const absl::StatusOr<std::unique_ptr<GuestTerminal>> terminal =
        TerminalFor(options, **machine, scene);
    if (!terminal.ok()) return terminal.status();
    const absl::Cleanup terminal_is_as_before = [&scene] { scene.SetTerminal(nullptr); };
    if (absl::Status started = (*machine)->Start(); !started.ok()) return started;
    console.Line(Announcement(options, **machine, (*server)->path()));
    if (*terminal != nullptr) console.Line("the guest's console; Ctrl-] switches the guest off");
    // The check would delay the guest's start, so it is made here.
    if (options.kernel_events == KernelEvents::kAuto) WarnOfMissingRecords();
    RunUntilTheEnd(options, **machine, signals, console);
  }
  const uint64_t churned_us = (*machine)->GetStats().vm.uptime_us;
  static_cast<void>(EndWithVerdict(**machine, signals, console));  // problems() reports the error
  RunSummary summary;
  summary.stats = (*machine)->GetStats();
  summary.options = options;
  summary.churned_us = churned_us;
  summary.churn_changed = control.churn_changed();
  summary.program = program_invocation_name;
  if (!options.replay_path.empty()) summary.replay = (*machine)->replay();
  for (const auto& [kind, why] : options.unavailable_churn) {
    if (options.churn.preset) summary.skipped[kind] = why;
  }
  summary.coverage = (*machine)->coverage();
  summary.left_behind = (*machine)->left_behind();
  for (const DeviceInfo& device : (*machine)->devices().virtio) {
    if (!device.first_error.empty()) summary.file_errors.push_back(device.first_error);
  }
  for (std::string& problem : ProblemsIn(summary.stats, summary.coverage)) {
    summary.Add({RunEnd::kWrong, std::move(problem)});
  }
  for (const RunProblem& problem : (*machine)->problems()) summary.Add(problem);
  summary.PutFileErrorsFirst();
  control.ReportToWaitingClients({summary.result(), summary.problems});
  return summary;
}

// Undoes the changes of a killed run before this run examines the host.
absl::Status RestoreHost(Console& console) {
  const absl::StatusOr<RestoredHost> restored = HostJournal::RestoreLeftovers();
  if (!restored.ok()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("cannot undo what an earlier run has changed about this host: %s; run "
                        "`underfoot doctor --restore` as root",
                        std::string(restored.status().message())));
  }
  for (const std::string& line : restored->put_back) {
    console.Line("host: put back what a killed run had left: " + line);
  }
  for (const std::string& line : restored->left_alone) console.Line("host: left alone: " + line);
  return absl::OkStatus();
}

// liburcu aborts if it cannot start its worker thread. Therefore another thread is tried first. The
// host is restored while that one comes and goes.
absl::Status RestoreHostAndStartRcu(Console& console) {
  absl::Status restored;
  {
    std::thread trial;
    if (absl::Status started = StartThread(trial, "RCU's worker", [] {}); !started.ok()) {
      return started;
    }
    const absl::Cleanup join = [&trial] { trial.join(); };
    restored = RestoreHost(console);
  }
  rcu::StartWorker();
  return restored;
}

// The churn that the host must support: the requested one, or the kinds of the record that is
// repeated.
absl::StatusOr<ChurnSpec> ChurnWanted(const RunOptions& options, Console& console) {
  if (options.replay_path.empty()) return options.churn;
  const absl::StatusOr<Script> script = Script::Read(options.replay_path);
  if (!script.ok()) return script.status();
  const ScriptMachine machine = ScriptMachine::Of(options);
  if (absl::Status fits = script->CheckMemoryOf(machine, options.replay_path); !fits.ok())
    return fits;
  const std::string missing = script->machine.OptionsMissingFrom(machine);
  if (!missing.empty()) {
    console.Line(
        absl::StrFormat("replay: the churn was recorded with %s; without it, the guest touches "
                        "other pages at other times",
                        missing));
  }
  ChurnSpec spec{.text = options.replay_path, .preset = false, .rates = {}};
  for (const ScriptedOperation& operation : script->operations) spec.rates[operation.step.kind] = 1;
  return spec;
}

// Returns the options with the churn that this host can do. Announces the kinds that a preset must
// leave out.
absl::StatusOr<RunOptions> FitChurnToHost(RunOptions options, const ChurnSpec& wanted,
                                          HostChanges* changes, Console& console) {
  ChurnLimits chosen{options.backing, options.huge_pages};
  ChurnLimits limits = ProvideForChurn(chosen, options.memory_bytes, wanted.rates, changes);
  // The rates already exclude what the other options forbid.
  options.Limit(chosen);
  options.Limit(limits);
  const bool some = options.churn.preset && !options.churn.rates.empty();
  for (const auto& [kind, why] : limits.unavailable) {
    if (some && options.churn.rates.count(kind) + chosen.unavailable.count(kind) != 0) {
      console.Line(absl::StrFormat("churn: %s is skipped: %s", ChurnKindName(kind), why));
    }
  }
  // The same check as for all other inputs: a record is refused if --churn would be.
  absl::StatusOr<ChurnRates> rates = ResolveChurn(wanted, limits);
  if (!rates.ok()) return std::move(rates).status();
  if (options.replay_path.empty()) options.churn.rates = *std::move(rates);
  options.unavailable_churn = limits.unavailable;
  return options;
}

// Whether a fault can bring in a whole huge page of private memory.
bool BringsInThp() {
  return HugePageHost().OffersThp() &&
         Userfaultfd::Open({.events = UffdEvents::kNone, .move = true}).ok();
}

// Makes the checks that would otherwise refuse the run after the host has been changed for it, and most of
// them after the run has announced which churn it skips.
absl::Status CheckBeforeChanges(const RunOptions& options) {
  if (absl::Status path = CheckPathIsFree(options.control_path); !path.ok()) return path;
  return CheckRunInputs(options);
}

absl::StatusOr<RunSummary> RunOnHost(const RunOptions& asked, EndSignals& signals,
                                     Console& console) {
  if (absl::Status checked = CheckBeforeChanges(asked); !checked.ok()) return checked;
  const absl::StatusOr<ChurnSpec> wanted = ChurnWanted(asked, console);
  if (!wanted.ok()) return wanted.status();
  Scene scene;
  std::unique_ptr<HostChanges> changes;  // nullptr: the run may not change the host
  if (asked.allow_host_changes) {
    absl::StatusOr<std::unique_ptr<HostChanges>> taken =
        HostChanges::Take([&console](std::string_view line) { console.Line(std::string(line)); });
    if (!taken.ok()) return std::move(taken).status();
    changes = *std::move(taken);
  }
  signals.SetAtOnce([&] { scene.Leave(changes.get()); });
  const absl::Cleanup no_more = [&signals] { signals.SetAtOnce(nullptr); };
  const absl::Status provided = scene.WithHost([&] {
    return HugePageHost().Provide(asked.huge_pages, asked.backing, asked.memory_bytes,
                                  changes.get());
  });
  if (!provided.ok()) return provided;
  absl::StatusOr<RunOptions> options =
      scene.WithHost([&] { return FitChurnToHost(asked, *wanted, changes.get(), console); });
  if (!options.ok()) return std::move(options).status();
  absl::StatusOr<RunSummary> summary = LiveAndEnd(*options, signals, scene, console);
  const absl::Status put_back =
      scene.WithHost([&] { return changes == nullptr ? absl::OkStatus() : changes->PutBack(); });
  if (!put_back.ok() && summary.ok()) {
    summary->Add({RunEnd::kWrong, "the host is not as it was: " + std::string(put_back.message())});
  }
  return summary;
}

}  // namespace

int RunMachine(const RunOptions& asked) {
  RunOptions options = asked;
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  const Output output{.out = std::cout, .err = std::cerr, .terminal = terminal};
  Console console(options.json ? stderr : stdout);
  const auto could_not_run = [&](const absl::Status& status) {
    const std::string why(status.message());
    std::cerr << "underfoot run: " << why << "\n";
    if (options.json) static_cast<void>(Print(output, StartFailureJson(options, why)));
    return ExitCodeOf(RunEnd::kCouldNotRun);
  };
  GuestTerminal::BlockSignals();
  const absl::StatusOr<std::unique_ptr<EndSignals>> signals = EndSignals::Start();
  if (!signals.ok()) return could_not_run(signals.status());
  const absl::Status ready = RestoreHostAndStartRcu(console);
  if (!ready.ok()) return could_not_run(ready);
  options.huge_pages = asked.PagesOn(BringsInThp);
  const Census before = Census::Take();
  absl::StatusOr<RunSummary> summary = RunOnHost(options, **signals, console);
  if (!summary.ok()) return could_not_run(summary.status());
  // What a worker uses that cannot be stopped has been reported already.
  if (!summary->left_behind) {
    for (std::string& line : LeftBehind(before)) {
      summary->Add({RunEnd::kWrong, std::move(line)});
    }
  }
  const bool colour = WantsColour(terminal, getenv("NO_COLOR"), getenv("TERM"));
  if (!Print(output, options.json ? SummaryJson(*summary) : SummaryText(*summary, colour))) {
    summary->Add({RunEnd::kUnfinished, "the summary could not be written"});
  }
  if (summary->left_behind) {
    std::cout.flush();
    _exit(ExitCodeOf(summary->result()));  // its thread may return at any time
  }
  return ExitCodeOf(summary->result());
}

}  // namespace underfoot
