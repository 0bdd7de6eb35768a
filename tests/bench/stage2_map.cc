// Mapping and unmapping pages of 4 KiB: the shared table against one that only one thread may use,
// and two threads on ranges of their own.
//
// The floor of a shared install is two locked instructions on the entry (claim, publish) and one on
// the table's count; an exclusive one is three stores.

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "mmu/stage2/stage2.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"
#include "tests/bench/free_tables.h"
#include "tests/bench/partner.h"
#include "tests/bench/shared_table.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint64_t kPagesOfAStep = 512;
constexpr GfnRange kMine{{0}, {kPages}};
constexpr GfnRange kTheirs{{uint64_t{1} << 20}, {(uint64_t{1} << 20) + kPages}};
// Keeps the tables above the leaves' alive, as the rest of a guest does.
constexpr Gfn kNeighbours[] = {{kPages + 512}, {(uint64_t{1} << 20) + kPages + 512}};

template <class Table>
void MapAll(Table& table, GfnRange range) {
  for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) {
    table.Map(gfn, {gfn.value + 1}, Access::kWrite);
  }
}

template <class Table>
void MapAsPart(Table& table, GfnRange range, bool ranges) {
  if (ranges) return table.MapRange(range, {range.begin.value + 1}, Access::kWrite);
  MapAll(table, range);
}

template <class Table>
void UnmapInPieces(Table& table, GfnRange range, uint64_t pages) {
  for (Gfn gfn = range.begin; gfn < range.end; gfn += pages) table.Unmap({gfn, gfn + pages});
}

// What is timed of a turn that maps everything and unmaps it again.
struct Part {
  bool map = false;
  bool ranges = false;       // map whole tables and not page by page
  uint64_t unmap_pages = 0;  // in one call; 0: the unmap is not timed
};

template <class Table>
Variant Timed(const Bench& bench, std::string name, std::shared_ptr<Table> mine, Part part,
              Partner* partner = nullptr, std::shared_ptr<Table> theirs = nullptr) {
  const GfnRange range{kMine.begin, kMine.begin + (bench.smoke() ? 512 : kPages)};
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                std::unique_ptr<Partner::Work> work;
                if (partner != nullptr) {
                  work = std::make_unique<Partner::Work>(*partner, [theirs, part] {
                    const GfnRange step{kTheirs.begin, kTheirs.begin + kPagesOfAStep};
                    MapAsPart(*theirs, step, part.ranges);
                    UnmapInPieces(*theirs, step, kPagesOfAStep);
                  });
                }
                const uint64_t before = work == nullptr ? 0 : work->steps();
                const Stopwatch watch;
                MapAsPart(*mine, range, part.ranges);
                const double mapped = watch.ElapsedNs();
                UnmapInPieces(*mine, range, part.unmap_pages == 0 ? 512 : part.unmap_pages);
                const double all = watch.ElapsedNs();
                const double ns = (part.map ? mapped : 0) + (part.unmap_pages ? all - mapped : 0);
                turn.Record(ns / static_cast<double>(range.size()));
                if (work != nullptr && work->steps() == before) turn.Discard();
              },
          .goal = {}};
}

// Tables that are mapped at once, each with the next free one of the same pool under it. A quarter
// of them is not timed: the wait for retired tables leaves code and counters as cold as the memory.
constexpr uint64_t kTablesOfATurn = 64;
// Away from the ranges above, and with an upper table that stays.
constexpr Gfn kFirst{uint64_t{2} << 20};
constexpr Gfn kFirstsNeighbour = kFirst + kTablesOfATurn * kEntries;

template <class Table>
Variant FirstMap(const Bench& bench, std::string name, std::shared_ptr<Table> table,
                 Temperature temperature) {
  const uint64_t tables = bench.smoke() ? 2 : kTablesOfATurn;
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                const GfnRange rehearsed{kFirst, kFirst + tables / 4 * kEntries};
                const GfnRange timed{rehearsed.end, kFirst + tables * kEntries};
                ArrangeFreeTables(tables, temperature);
                table->MapRange(rehearsed, {1}, Access::kWrite);
                turn.Time(timed.size(), [&] { table->MapRange(timed, {1}, Access::kWrite); });
                table->Unmap({rehearsed.begin, timed.end});
              },
          .goal = {}};
}

void CompareFirstMaps(Bench& bench, Stage2& stage2) {
  const auto exclusive = std::make_shared<ExclusiveTable>(ExclusiveTable::Memory::kOfStage2);
  const auto ours = std::make_shared<SharedTable>(OwnerTag{1}, stage2);
  exclusive->Map(kFirstsNeighbour, {1}, Access::kWrite);
  ours->Map(kFirstsNeighbour, {1}, Access::kWrite);
  const auto compare = [&](std::string name, std::string what, Temperature temperature) {
    Comparison comparison{
        .name = std::move(name),
        .what = std::move(what),
        .variants = {FirstMap(bench, "exclusive, same pool", exclusive, temperature),
                     FirstMap(bench, "stage-2", ours, temperature)}};
    comparison.variants.back().goal = {.of = Goal::Of::kRatio, .at_most = 1.05};
    bench.Compare(std::move(comparison));
  };
  compare("stage2.map_range.first", "the same in table pages of one pool that no cache holds",
          Temperature::kCold);
  compare("stage2.map_range.again", "the same in table pages of one pool that were just in use",
          Temperature::kWarm);
}

}  // namespace

void BenchStage2Map(Bench& bench) {
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus.front());
  Stage2 stage2;
  const auto mine = std::make_shared<SharedTable>(OwnerTag{1}, stage2);
  const auto theirs = std::make_shared<SharedTable>(OwnerTag{2}, stage2);
  const auto exclusive = std::make_shared<ExclusiveTable>();
  const auto locked = std::make_shared<LockedTable>();
  for (const Gfn gfn : kNeighbours) {
    mine->Map(gfn, {1}, Access::kWrite);
    exclusive->Map(gfn, {1}, Access::kWrite);
    locked->Map(gfn, {1}, Access::kWrite);
  }
  const auto compare = [&](std::string name, std::string what, Part part,
                           std::optional<Goal> goal = {}) {
    Variant ours = Timed(bench, "stage-2", mine, part);
    ours.goal = goal;
    bench.Compare(
        {.name = std::move(name),
         .what = std::move(what),
         .variants = {Timed(bench, "exclusive, not atomic", exclusive, part), std::move(ours),
                      Timed(bench, "exclusive, under a mutex", locked, part)}});
  };
  compare("stage2.map", "one page, in order; every 512th page brings a table", {.map = true});
  compare("stage2.map_range", "a page of a range that is mapped in one call, 512 to a table",
          {.map = true, .ranges = true}, Goal{.of = Goal::Of::kRatio, .at_most = 1.05});
  CompareFirstMaps(bench, stage2);
  compare("stage2.unmap.512_pages", "one page of 512 that go in one call", {.unmap_pages = 512},
          Goal{.of = Goal::Of::kRatio, .at_most = 1.0});
  compare("stage2.unmap.1_page", "one page, one call", {.unmap_pages = 1});

  constexpr char kTwo[] = "stage2.two_threads";
  if (cpus.size() < 2) return bench.Skip(kTwo, "it takes two CPUs");
  Partner partner(cpus[1]);
  const Part both{.map = true, .unmap_pages = 512};
  for (const bool ranges : {false, true}) {
    Part part = both;
    part.ranges = ranges;
    Variant together = Timed(bench, "stage-2, two threads", mine, part, &partner, theirs);
    together.goal = {.of = Goal::Of::kRatio, .at_most = 2 / 1.8};
    bench.Compare(
        {.name = std::string(kTwo) + (ranges ? ".ranges" : ".pages"),
         .what = "map and unmap a page while another thread does so in a range of its own",
         .variants = {Timed(bench, "stage-2, alone", mine, part), std::move(together),
                      Timed(bench, "exclusive, under a mutex, alone", locked, part),
                      Timed(bench, "exclusive, under a mutex, two threads", locked, part, &partner,
                            locked)}});
  }
}

}  // namespace underfoot::bench
