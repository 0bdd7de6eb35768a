// The backlog of unlinked table pages: what each way of freeing them costs the thread that retires
// them, how much is pending at the peak, how long the oldest one waits, and how long one deferred
// call takes. Once with no reader, and once beside a reader whose sections last 20 ms: whether its
// stall becomes growth or back-pressure.
//
// The floor of the peak is what one grace period takes to retire.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/base/rcu.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/retire_policies.h"
#include "tests/bench/cpus.h"
#include "tests/bench/pace.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kTables = 8192;  // those of 16 GiB of pages of 4 KiB
constexpr std::chrono::milliseconds kStall{20};

using Figures = RetirePolicies::Figures;

struct Kind {
  std::string name;
  std::string what;
  std::string unit;
  std::function<double(const Figures&)> of;
};

struct Policy {
  std::string name;
  std::shared_ptr<RetirePolicies> policies;
};

// A reader that is always inside a section. A section longer than the turn's retirements would show
// the same; a shorter one less.
void StalledSection() {
  const rcu::ReadScope section;
  SpinUntil(Clock::now() + kStall);
}

Variant Retiring(const Bench& bench, const Policy& policy, const Kind& kind, Partner* stalled) {
  return {.name = policy.name,
          .run =
              [policies = policy.policies, of = kind.of, stalled,
               n = bench.Operations(kTables)](Turn& turn) {
                std::unique_ptr<Partner::Work> work;
                if (stalled != nullptr) {
                  work = std::make_unique<Partner::Work>(*stalled, StalledSection);
                }
                turn.Record(of(policies->Retire(n)));
              },
          .goal = {}};
}

}  // namespace

void BenchRetire(Bench& bench) {
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus.front());
  const Policy policies[] = {
      {"per table", std::make_shared<RetirePolicies>(RetirePolicy::kPerTable)},
      {"per subtree of 1 GiB", std::make_shared<RetirePolicies>(RetirePolicy::kPerSubtree)},
      {"batches, capped (as Unmap)",
       std::make_shared<RetirePolicies>(RetirePolicy::kBatchedWithCap)},
      {"grace period at the cap (as TearDown above it)",
       std::make_shared<RetirePolicies>(RetirePolicy::kGracePeriodAtCap)}};
  const Kind kinds[] = {{"cost", "time of the retiring thread for one table", "ns",
                         [](const Figures& f) { return f.ns_a_table; }},
                        {"peak", "most memory that was retired and not yet freed", "bytes",
                         [](const Figures& f) { return static_cast<double>(f.peak_bytes); }},
                        {"oldest", "longest time from a retirement to its free", "ns",
                         [](const Figures& f) { return f.oldest_ns; }},
                        {"call", "longest deferred call, or free after a grace period", "ns",
                         [](const Figures& f) { return f.longest_call_ns; }}};
  const auto compare = [&](const char* group, const char* beside, Partner* stalled) {
    for (const Kind& kind : kinds) {
      Comparison comparison{.name = absl::StrCat(group, ".", kind.name),
                            .what = absl::StrCat(kind.what, beside),
                            .variants = {},
                            .rounds = 10,
                            .unit = kind.unit};
      for (const Policy& policy : policies) {
        comparison.variants.push_back(Retiring(bench, policy, kind, stalled));
      }
      bench.Compare(std::move(comparison));
    }
  };
  compare("retire.no_reader", ", of 8192", nullptr);
  constexpr char kStalled[] = "retire.stalled_reader";
  if (cpus.size() < 2) return bench.Skip(kStalled, "it takes two CPUs");
  Partner partner(cpus[1]);
  compare(kStalled, ", of 8192, beside a reader in sections of 20 ms", &partner);
}

}  // namespace underfoot::bench
