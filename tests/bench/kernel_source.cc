// The cost of the kernel's own notifier for a thread that changes memory: a record that a filter
// drops, a record that is written, and the announcement by which the record is recognized later.
//
// The floor is the system call without any probe. The kernel builds a record before the filter sees
// it.

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "vmm/evidence/host_event.h"
#include "vmm/evidence/own_changes.h"
#include "vmm/kvm/kvm.h"
#include "vmm/sources/kernel/kvm_tracepoints.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 64;
constexpr uint64_t kCallsOfATurn = 1024;

// The whole process is KVM's business as soon as it has a VM.
struct Scene {
  explicit Scene(Vm machine) : vm(std::move(machine)), told(kPages), unrelated(kPages) {}
  Vm vm;
  AnonymousMemory told;
  AnonymousMemory unrelated;
};

enum class Listening : uint8_t { kNo, kYes };

Variant Discarding(std::string name, std::shared_ptr<Scene> scene, Listening listening,
                   const AnonymousMemory& memory, std::optional<Goal> goal) {
  return {.name = std::move(name),
          .run =
              [scene, listening, &memory](Turn& turn) {
                std::unique_ptr<KvmTracepoints> source;
                if (listening == Listening::kYes) {
                  auto opened = KvmTracepoints::Open(scene->told.range());
                  if (!opened.ok()) return turn.Discard();
                  source = *std::move(opened);
                }
                for (uint64_t call = 0; call < kCallsOfATurn; ++call) {
                  memory.Touch(call % kPages);
                  const HvaRange page = memory.Pages(call % kPages, 1);
                  turn.Time(1, [&] { Discard(page); });
                }
              },
          .goal = goal};
}

void BenchAnnouncement(Bench& bench) {
  constexpr char kName[] = "kernel.announcement";
  if (!bench.Wants(kName)) return;
  auto changes = std::make_shared<OwnChanges>();
  const uint64_t operations = bench.Operations(100000);
  const HvaRange range = PageRangeOf({0x7f0000000000});
  bench.Compare({.name = kName,
                 .what = "a look at the clock; a change announced and done, which are two looks",
                 .variants = {{.name = "MonotonicNs",
                               .run =
                                   [operations](Turn& turn) {
                                     int64_t sum = 0;
                                     turn.Time(operations, [&] {
                                       for (uint64_t i = 0; i < operations; ++i) {
                                         sum += MonotonicNs();
                                       }
                                     });
                                     if (sum == 0) turn.Discard();
                                   },
                               .goal = {}},
                              {.name = "Announce, Done",
                               .run =
                                   [operations, changes, range](Turn& turn) {
                                     turn.Time(operations, [&] {
                                       for (uint64_t i = 0; i < operations; ++i) {
                                         changes->Announce(range);
                                         changes->Done(range);
                                       }
                                     });
                                   },
                               .goal = {}}}});
}

}  // namespace

void BenchKernelSource(Bench& bench) {
  BenchAnnouncement(bench);
  constexpr char kName[] = "kernel.tracepoints";
  if (!bench.Wants(kName)) return;
  const Pinned pinned(AllowedCpus()[0]);
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return bench.Skip(kName, std::string(kvm.status().message()));
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return bench.Skip(kName, std::string(vm.status().message()));
  auto scene = std::make_shared<Scene>(*std::move(vm));
  if (const auto source = KvmTracepoints::Open(scene->told.range()); !source.ok()) {
    return bench.Skip(kName, std::string(source.status().message()));
  }
  bench.Compare(
      {.name = kName,
       .what = "MADV_DONTNEED of one page in a process with a VM",
       .variants = {Discarding("nobody listens", scene, Listening::kNo, scene->unrelated, {}),
                    Discarding("filtered out", scene, Listening::kYes, scene->unrelated,
                               Goal{Goal::Of::kRatio, 1.15}),
                    Discarding("recorded", scene, Listening::kYes, scene->told, {})},
       .rounds = 20});
}

}  // namespace underfoot::bench
