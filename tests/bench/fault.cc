// A write of a host thread to an absent page: through our monitor, memslots, stage-2 and page
// source, against a loop that reads a message and copies a page.
//
// The floor is the hand-over to the handler's thread and back, which takes several times as long as
// the handler's work. If a thread brings the page in before it writes, there is no fault and no
// thread is woken.

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/raw_uffd.h"
#include "tests/bench/cpus.h"
#include "tests/bench/hooked_memory.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 64;

Variant Touching(std::string name, std::function<void()> discard_all,
                 std::function<void(uint64_t)> touch) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                discard_all();
                for (uint64_t page = 0; page < kPages; ++page) {
                  turn.Time(1, [&] { touch(page); });
                }
              },
          .goal = {}};
}

absl::StatusOr<Variant> Raw(int cpu) {
  absl::StatusOr<std::unique_ptr<RawUffdMemory>> made =
      RawUffdMemory::Create(kPages, RawUffdMemory::Events::kFaultsOnly);
  if (!made.ok()) return std::move(made).status();
  std::shared_ptr<RawUffdMemory> raw = *std::move(made);
  raw->Serve(cpu);
  return Touching(
      "poll, read, UFFDIO_COPY", [raw] { Discard(raw->memory().range()); },
      [raw](uint64_t page) { raw->memory().Touch(page); });
}

absl::StatusOr<Variant> Monitored(std::string name,
                                  absl::StatusOr<std::unique_ptr<HookedMemory>> made) {
  if (!made.ok()) return std::move(made).status();
  std::shared_ptr<HookedMemory> hooked = *std::move(made);
  Variant variant = Touching(
      std::move(name), [hooked] { hooked->Discard(0, kPages); },
      [hooked](uint64_t page) { hooked->memory().Touch(page); });
  variant.goal = Goal{.of = Goal::Of::kRatio, .at_most = 1.2};
  return variant;
}

absl::StatusOr<Variant> AskedFor(int cpu) {
  absl::StatusOr<std::unique_ptr<HookedMemory>> made = HookedMemory::Registered(kPages, cpu);
  if (!made.ok()) return std::move(made).status();
  std::shared_ptr<HookedMemory> hooked = *std::move(made);
  return Touching(
      "our fault path, asked before the write", [hooked] { hooked->Discard(0, kPages); },
      [hooked](uint64_t page) {
        hooked->FaultIn(page, 1);
        hooked->memory().Touch(page);
      });
}

Variant KernelsOwn() {
  auto memory = std::make_shared<AnonymousMemory>(kPages);
  return Touching(
      "the kernel's own, not registered", [memory] { Discard(memory->range()); },
      [memory](uint64_t page) { memory->Touch(page); });
}

// `local`: whether the handler that serves is the one that the machine has for the thread's CPU.
void Compare(Bench& bench, std::string name, std::string what, int handler_cpu, bool local) {
  Comparison comparison{.name = std::move(name), .what = std::move(what), .variants = {}};
  std::vector<absl::StatusOr<Variant>> variants;
  variants.push_back(Raw(handler_cpu));
  if (local) {
    variants.push_back(Monitored("our monitor and fault path, a handler for each CPU",
                                 HookedMemory::WithLocalHandlers(kPages)));
  }
  variants.push_back(Monitored("our monitor and fault path, one raised handler",
                               HookedMemory::Registered(kPages, handler_cpu)));
  variants.push_back(AskedFor(handler_cpu));
  for (absl::StatusOr<Variant>& made : variants) {
    if (!made.ok()) return bench.Skip(comparison.name, std::string(made.status().message()));
    comparison.variants.push_back(*std::move(made));
  }
  comparison.variants.push_back(KernelsOwn());
  bench.Compare(std::move(comparison));
}

}  // namespace

void BenchFault(Bench& bench) {
  constexpr char kSame[] = "fault.handler_on_this_cpu";
  constexpr char kOther[] = "fault.handler_on_the_other_cpu";
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus[0]);
  if (bench.Wants(kSame)) {
    Compare(bench, kSame, "a host thread's first write to a page, resolved on its own CPU", cpus[0],
            true);
  }
  if (cpus.size() < 2) return bench.Skip(kOther, "it takes two CPUs");
  if (bench.Wants(kOther)) {
    Compare(bench, kOther, "the same, resolved by a thread on the other CPU", cpus[1], false);
  }
}

}  // namespace underfoot::bench
