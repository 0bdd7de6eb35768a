// From exec to the guest's first output: underfoot, with all that it sets up, against a program
// that runs seven bytes of real-mode code.
//
// The floor is fork and exec, the creation of a VM and a vCPU, and one exit. underfoot adds its
// shared libraries, a userfaultfd, memslots, a guest that reaches ring 3, and its control socket.

#include <string>
#include <utility>
#include <vector>

#include "tests/bench/bench.h"
#include "tests/bench/child_output.h"
#include "vmm/kvm/kvm.h"

namespace underfoot::bench {
namespace {

struct Program {
  std::string name;
  std::vector<std::string> command;
  std::string marker;
};

Variant UntilOutput(Program program) {
  return {.name = program.name,
          .run =
              [program](Turn& turn) {
                const absl::StatusOr<double> ns = NsUntilOutput(program.command, program.marker);
                if (ns.ok()) turn.Record(*ns);
              },
          .goal = {}};
}

}  // namespace

void BenchFirstByte(Bench& bench) {
  constexpr char kName[] = "start.first_byte";
  if (!bench.Wants(kName)) return;
  if (const absl::StatusOr<Kvm> kvm = Kvm::Open(); !kvm.ok()) {
    return bench.Skip(kName, std::string(kvm.status().message()));
  }
  const std::string underfoot = Sibling("underfoot");
  const std::vector<Program> programs = {
      {"minimal VMM, first byte", {Sibling("minimal_first_byte")}, "H"},
      {"underfoot run, first serial line",
       {underfoot, "run", "--guest", "hello", "--vcpus", "1", "--memory", "32M", "--churn", "off",
        "--duration", "5s"},
       "[vcpu 0]"},
      {"underfoot --help, until it has ended", {underfoot, "--help"}, ""},
      {"/bin/true, until it has ended", {"/bin/true"}, ""}};
  Comparison comparison{.name = kName,
                        .what = "from before the fork to the first output of the guest",
                        .variants = {},
                        .rounds = 21};
  for (const Program& program : programs) {
    if (const auto once = NsUntilOutput(program.command, program.marker); !once.ok()) {
      return bench.Skip(kName, std::string(once.status().message()));
    }
    comparison.variants.push_back(UntilOutput(program));
  }
  bench.Compare(std::move(comparison));
}

}  // namespace underfoot::bench
