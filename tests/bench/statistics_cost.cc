// What the statistics cost an access through a pfn cache. There is no switch for them: a hit is
// counted by the number of the section, which the protocol has anyway (mmu/readers/reader.h). What is
// left is that a client reads them, which takes the readers' cache lines.
//
// The comparators count each access once more: in a cache line of the reader, as the misses are
// counted, and in one that all threads share. The floor is an access while no statistics are read.

#include <memory>
#include <string>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/base/stats.h"
#include "tests/bench/bench.h"
#include "tests/bench/cached_word.h"
#include "tests/bench/cpus.h"
#include "tests/bench/pace.h"
#include "tests/bench/partner.h"
#include "tests/bench/resident_vm.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kAccesses = 1'000'000;  // some milliseconds
constexpr uint64_t kReadsPerSecond = 1000;

struct World {
  World() {
    const absl::Status active = cache.Activate(reader, Gpa{kPageSize}, 8, Access::kRead);
    UNDERFOOT_CHECK(active.ok(), "a benchmark's cache was refused", active.raw_code(), 0);
  }
  ~World() { cache.Deactivate(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  ResidentVm vm{16};
  Reader reader{vm.mmu().readers()};
  PfnCache cache{vm.mmu(), "bench"};
  CachedWord word{cache, reader};
  OwnedCounter owned;
  Counter shared;
};

template <class Count>
Variant Accesses(const Bench& bench, std::string name, std::shared_ptr<World> world,
                 Partner& partner, uint64_t statistics_per_second, const Count& count) {
  return {.name = std::move(name),
          .run =
              [=, &partner, n = bench.Operations(kAccesses)](Turn& turn) {
                auto pace = std::make_shared<Pace>(kReadsPerSecond);
                // The other CPU is as busy without statistics.
                const Partner::Work work(partner, [world, pace, statistics_per_second] {
                  pace->AwaitNext();
                  if (statistics_per_second != 0)
                    KeepAlive(world->vm.mmu().Stats().pfn_caches.hits);
                });
                turn.Time(n, [&] {
                  for (uint64_t i = 0; i < n; ++i) {
                    KeepAlive(world->word.Read(0).value_or(0));
                    count(*world);
                  }
                });
              },
          .goal = {}};
}

}  // namespace

void BenchStatisticsCost(Bench& bench) {
  constexpr char kName[] = "cache.statistics";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  const auto world = std::make_shared<World>();
  const auto nothing = [](World&) {};
  Variant read = Accesses(bench, "they are read 1000 times a second", world, partner,
                          kReadsPerSecond, nothing);
  read.goal = {.of = Goal::Of::kRatio, .at_most = 1.02};
  bench.Compare({.name = kName,
                 .what = "an access through a pfn cache, with its statistics",
                 .variants = {Accesses(bench, "nothing reads them", world, partner, 0, nothing),
                              std::move(read),
                              Accesses(bench, "one count more, of the reader", world, partner, 0,
                                       [](World& counted) { counted.owned.Add(); }),
                              Accesses(bench, "one count more, a locked instruction", world,
                                       partner, 0, [](World& counted) { counted.shared.Add(); })}});
}

}  // namespace underfoot::bench
