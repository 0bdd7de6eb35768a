// How large may a chunk of a teardown be? A guest's translations are unmapped in chunks of one
// table to everything: the time for all of it, and how long a fault and a look-up take meanwhile in
// another range.
//
// The comparator is an exclusive table under one fair lock, which is released between two chunks,
// as in the kernel. There a fault waits for the rest of a chunk. In a table without a lock it waits
// for nothing, whatever the chunk. "Detached" unlinks whole tables under the lock and frees them
// after it.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "mmu/stage2/stage2.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"
#include "tests/bench/pace.h"
#include "tests/bench/partner.h"
#include "tests/bench/shared_table.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPagesOfAGiB = 512 * kEntries;
constexpr uint64_t kChunkTables[] = {1, 32, 1024, 32768};
constexpr uint64_t kProbesASecond = 500'000;
// Where the other thread maps and unmaps; and a page beside it that is looked up and keeps the tables
// above alive.
constexpr Gfn kProbe{128 * kPagesOfAGiB};
constexpr Gfn kNeighbour = kProbe + 1;

uint64_t GiB(const Bench& bench) { return bench.smoke() ? 1 : bench.quick() ? 8 : 64; }

// First come, first served: a chunk that ends lets a waiting fault in.
class TicketLock {
 public:
  void lock() {
    const uint32_t mine = next_.fetch_add(1, kRelaxed);
    while (served_.load(kAcquire) != mine) CpuRelax();
  }
  void unlock() { served_.store(served_.load(kRelaxed) + 1, kRelease); }

 private:
  alignas(64) std::atomic<uint32_t> next_{0};
  alignas(64) std::atomic<uint32_t> served_{0};
};

struct OurTable {
  static constexpr OwnerTag kTag = 1;
  static constexpr OwnerTag kProbeTag = 2;

  void Map(GfnRange range) { SharedTable(kTag, stage2).MapRange(range, {1}, Access::kWrite); }
  void UnmapChunk(GfnRange range) { SharedTable(kTag, stage2).Unmap(range); }
  void MapPage(Gfn gfn) { SharedTable(kProbeTag, stage2).Map(gfn, {1}, Access::kWrite); }
  void UnmapPage(Gfn gfn) { SharedTable(kProbeTag, stage2).Unmap({gfn, gfn + 1}); }
  void LookUp(Gfn gfn) {
    const rcu::ReadScope scope;
    KeepAlive(stage2.Lookup(gfn).has_value());
  }

  Stage2 stage2{RetiredCapFor(uint64_t{64} << 30)};  // as a machine of that size
};

struct FairlyLockedTable {
  void Map(GfnRange range) {
    const std::lock_guard guard(lock);
    table.MapRange(range, {1}, Access::kWrite);
  }
  void UnmapChunk(GfnRange range) {
    const std::lock_guard guard(lock);
    table.Unmap(range);
  }
  void MapPage(Gfn gfn) {
    const std::lock_guard guard(lock);
    table.Map(gfn, {1}, Access::kWrite);
  }
  void UnmapPage(Gfn gfn) { UnmapChunk({gfn, gfn + 1}); }
  void LookUp(Gfn gfn) {
    const std::lock_guard guard(lock);
    KeepAlive(table.Lookup(gfn).word());
  }
  void DetachAll(GfnRange range) {
    std::unique_lock guard(lock);
    const ExclusiveTable::Detached detached = table.Detach(range);
    guard.unlock();
    table.FreeDetached(detached);
  }

  TicketLock lock;
  ExclusiveTable table{ExclusiveTable::Memory::kOfStage2};
};

// What the other CPU does meanwhile, and which of it is measured.
enum class Measured { kTotal, kFault, kLookUp };

// A probe that waits keeps those from being made that were due meanwhile: they would have waited for
// the rest of the time. Without them long waits would hardly count in the p99.
void AddAllThatWaited(double ns, std::vector<double>& probes) {
  constexpr double kPeriodNs = 1e9 / kProbesASecond;
  do {
    probes.push_back(ns);
    ns -= kPeriodNs;
  } while (ns > 0);
}

template <class Table>
Variant TearingDown(const Bench& bench, Partner& partner, std::string name,
                    std::shared_ptr<Table> table, Measured measured,
                    std::function<void(Table&, GfnRange)> tear_down) {
  const GfnRange all{{0}, {GiB(bench) * kPagesOfAGiB}};
  const auto fault = [table] {
    table->MapPage(kProbe);
    table->UnmapPage(kProbe);
  };
  const auto look_up = [table] { table->LookUp(kNeighbour); };
  return {.name = std::move(name),
          .run =
              [=, &partner](Turn& turn) {
                table->Map(all);
                std::vector<double> probes;
                Pace pace(kProbesASecond);
                {
                  const Partner::Work work(partner, [&] {
                    pace.AwaitNext();
                    const Stopwatch watch;
                    measured == Measured::kLookUp ? look_up() : fault();
                    AddAllThatWaited(watch.ElapsedNs(), probes);
                  });
                  const Stopwatch watch;
                  tear_down(*table, all);
                  if (measured == Measured::kTotal) {
                    turn.Record(watch.ElapsedNs() / static_cast<double>(all.size()));
                  }
                }
                rcu::Barrier();
                if (measured == Measured::kTotal) return;
                for (const double ns : probes) turn.Record(ns);
              },
          .goal = {}};
}

template <class Table>
std::function<void(Table&, GfnRange)> InChunks(uint64_t tables) {
  return [tables](Table& table, GfnRange range) {
    for (Gfn gfn = range.begin; gfn < range.end; gfn += tables * kEntries) {
      table.UnmapChunk({gfn, std::min(gfn + tables * kEntries, range.end)});
    }
  };
}

}  // namespace

void BenchStage2Chunks(Bench& bench) {
  constexpr char kGroup[] = "stage2.chunks";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kGroup, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  const auto ours = std::make_shared<OurTable>();
  const auto locked = std::make_shared<FairlyLockedTable>();
  ours->MapPage(kNeighbour);
  locked->MapPage(kNeighbour);
  const auto compare = [&](Measured measured, const char* kind, const char* what) {
    for (const uint64_t tables : kChunkTables) {
      const std::string curve = absl::StrCat(kGroup, ".", kind);
      bench.Compare(
          {.name = absl::StrCat(curve, ".", tables, "_tables"),
           .what = absl::StrCat(what, " a guest of ", GiB(bench), " GiB is unmapped in chunks of ",
                                tables, " tables"),
           .variants =
               {TearingDown<OurTable>(bench, partner, "stage-2, Unmap", ours, measured,
                                      InChunks<OurTable>(tables)),
                TearingDown<OurTable>(
                    bench, partner, "stage-2, TearDown", ours, measured,
                    [](OurTable& table, GfnRange range) { table.stage2.TearDown(range); }),
                TearingDown<FairlyLockedTable>(bench, partner, "exclusive, one lock", locked,
                                               measured, InChunks<FairlyLockedTable>(tables)),
                TearingDown<FairlyLockedTable>(
                    bench, partner, "exclusive, detached", locked, measured,
                    [](FairlyLockedTable& table, GfnRange range) { table.DetachAll(range); })},
           .rounds = 5,
           .sweep = SweepPoint{curve, "tables in a chunk", static_cast<double>(tables)}});
    }
  };
  compare(Measured::kTotal, "total", "a page, while");
  compare(Measured::kFault, "fault", "map and unmap of a page elsewhere, while");
  compare(Measured::kLookUp, "look_up", "a look-up elsewhere, while");
}

}  // namespace underfoot::bench
