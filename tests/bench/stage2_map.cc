// Mapping and unmapping pages of 4 KiB: the shared table against one that only one thread may use,
// and two threads on ranges of their own.
//
// The floor of a shared install is two locked instructions on the entry (claim, publish) and one on
// the table's count; an exclusive one is three stores.

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "mmu/check.h"
#include "mmu/pte.h"
#include "mmu/stage2.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint64_t kPagesOfAStep = 512;
constexpr GfnRange kMine{{0}, {kPages}};
constexpr GfnRange kTheirs{{uint64_t{1} << 20}, {(uint64_t{1} << 20) + kPages}};
// Keeps the tables above the leaves' alive, as the rest of a guest does.
constexpr Gfn kNeighbours[] = {{kPages + 512}, {(uint64_t{1} << 20) + kPages + 512}};

// One way of having a table, as the loops below use it.
class SharedTable {
 public:
  explicit SharedTable(OwnerTag tag, Stage2& stage2) : stage2_(stage2), tag_(tag) {}

  void Map(Gfn gfn, Pfn pfn, Access granted) {
    const ClaimResult claim = stage2_.TryClaim(gfn, 0, granted, tag_);
    UNDERFOOT_CHECK(claim.outcome == ClaimOutcome::kClaimed, "a benchmark lost a claim", gfn.value,
                    claim.outcome);
    const bool published = stage2_.Publish(gfn, tag_, Pte::Leaf(pfn, granted));
    UNDERFOOT_CHECK(published, "a benchmark's claim was stolen", gfn.value, tag_);
  }
  void MapRange(GfnRange gfns, Pfn pfn, Access granted) {
    for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += kEntries) {
      const ClaimResult claim = stage2_.TryClaim(gfn, 1, granted, tag_);
      UNDERFOOT_CHECK(claim.outcome == ClaimOutcome::kClaimed, "a benchmark lost a claim",
                      gfn.value, claim.outcome);
      const Pfn first = pfn + (gfn - gfns.begin);
      const bool published = stage2_.PublishTable(
          gfn, tag_, MakeFullTable(0, [&](unsigned i) { return Pte::Leaf(first + i, granted); }));
      UNDERFOOT_CHECK(published, "a benchmark's claim was stolen", gfn.value, tag_);
    }
  }
  void Unmap(GfnRange range) {
    WalkDebts debts;
    stage2_.Unmap(range, debts);
    stage2_.Finish(debts);
  }

 private:
  Stage2& stage2_;
  const OwnerTag tag_;
};

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
  const GfnRange range{kMine.begin, kMine.begin + (bench.quick() ? 512 : kPages)};
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
  compare("stage2.unmap.512_pages", "one page of 512 that go in one call", {.unmap_pages = 512});
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
