// Stage2::TearDown of guests of different sizes, whole tables of pages of 4 KiB, against the same
// in an exclusive table whose tables lie in the same pool.
//
// The floor of an exclusive teardown is a load and a store for each entry. A shared one detaches each
// table by one locked instruction, and frees it by its count after a grace period: it looks at no entry
// but the first ones. A teardown that keeps to `retired_cap_bytes`, as that of any guest does with the
// cap that its machine has, leaves the last two to the RCU worker, after the time that is measured; one
// variant counts them too. With the smaller cap it waits and frees by itself, at each cap.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "mmu/stage2/stage2.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"
#include "tests/bench/shared_table.h"

namespace underfoot::bench {
namespace {

constexpr OwnerTag kTag = 1;
constexpr uint64_t kPagesOfAGiB = 512 * kEntries;
constexpr uint64_t kSmokePages = 4 * kEntries;
// 137 MB of tables for each of the two kinds.
constexpr uint64_t kLargestGiB = 64;

void TearDown(Stage2& stage2, GfnRange range) { stage2.TearDown(range); }
void TearDown(ExclusiveTable& table, GfnRange range) { table.Unmap(range); }
void Fill(Stage2& stage2, GfnRange range) {
  SharedTable(kTag, stage2).MapRange(range, {1}, Access::kWrite);
}
void Fill(ExclusiveTable& table, GfnRange range) { table.MapRange(range, {1}, Access::kWrite); }

enum class Until : uint8_t { kReturn, kTablesAreFree };

template <class Table>
Variant Timed(const Bench& bench, std::string name, std::shared_ptr<Table> table, uint64_t gib,
              Until until = Until::kReturn) {
  const GfnRange range{{0}, {bench.smoke() ? kSmokePages : gib * kPagesOfAGiB}};
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                Fill(*table, range);
                turn.Time(range.size(), [&] {
                  TearDown(*table, range);
                  if (until == Until::kTablesAreFree) rcu::Barrier();
                });
                rcu::Barrier();  // what is left to the worker is not left to the next turn
              },
          .goal = {}};
}

}  // namespace

void BenchStage2Teardown(Bench& bench) {
  constexpr char kName[] = "stage2.teardown";
  if (!bench.Wants(kName)) return;
  const Pinned pinned(AllowedCpus().front());
  const auto exclusive = std::make_shared<ExclusiveTable>(ExclusiveTable::Memory::kOfStage2);
  const auto stage2 = std::make_shared<Stage2>(RetiredCapFor(kLargestGiB << 30));
  const auto small_cap = std::make_shared<Stage2>();
  const Goal goal{.of = Goal::Of::kMedianNs, .at_most = 1};
  Variant largest = Timed(bench, "stage-2, 64 GiB", stage2, kLargestGiB);
  Variant all = Timed(bench, "stage-2, 64 GiB, until its tables are free", stage2, kLargestGiB,
                      Until::kTablesAreFree);
  largest.goal = goal;
  all.goal = goal;
  bench.Compare(
      {.name = kName,
       .what = "one page of a guest whose translations all go",
       .variants = {Timed(bench, "exclusive, 1 GiB", exclusive, 1),
                    Timed(bench, "stage-2, 1 GiB", stage2, 1),
                    Timed(bench, "stage-2, 8 GiB", stage2, 8), std::move(largest), std::move(all),
                    Timed(bench, "stage-2, 64 GiB, with a cap of 16 MiB", small_cap, kLargestGiB),
                    Timed(bench, "exclusive, 64 GiB", exclusive, kLargestGiB)},
       .rounds = 8});
}

}  // namespace underfoot::bench
