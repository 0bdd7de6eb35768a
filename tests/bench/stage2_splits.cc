// Map and unmap while another thread splits blocks and collapses them again: in a range of its own, in
// the block beside, which has the same table above it, and in the same block.
//
// A split is one table that is written in private and published by one compare-and-exchange. A
// collapse unlinks the table, which is retired, and publishes a block. The floor is what each does
// alone. Threads in one block take each other's entries and claims, and try again.

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/stage2/pte.h"
#include "mmu/stage2/stage2.h"
#include "mmu/stage2/table_pool.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

constexpr OwnerTag kMyTag = 1;
constexpr OwnerTag kTheirTag = 2;
constexpr GfnRange kMine{{0}, {kEntries}};
constexpr GfnRange kBeside{{kEntries}, {2 * kEntries}};
constexpr GfnRange kElsewhere{{uint64_t{1} << 20}, {(uint64_t{1} << 20) + kEntries}};
// Keep the tables above the leaves' alive, as the rest of a guest does.
constexpr Gfn kNeighbours[] = {{4 * kEntries}, {(uint64_t{1} << 20) + 4 * kEntries}};
constexpr uint64_t kTimes = 8;     // all pages, in a turn
constexpr uint64_t kBlocks = 256;  // split and collapsed, in a turn

void Unmap(Stage2& stage2, GfnRange range) {
  MmuGather gather;
  stage2.Unmap(range, gather);
  stage2.Finish(gather);
}

// An entry that another thread has just then is left to it.
void TryMap(Stage2& stage2, Gfn gfn, unsigned level, OwnerTag tag) {
  const ClaimResult claim = stage2.TryClaim(gfn, level, Access::kWrite, tag);
  if (claim.outcome != ClaimOutcome::kClaimed) return;
  static_cast<void>(stage2.Publish(gfn, tag, Pte::Leaf({gfn.value + kEntries}, Access::kWrite)));
}

// Page by page, and away again in one call.
void MapAndUnmap(Stage2& stage2, GfnRange range) {
  for (Gfn gfn = range.begin; gfn < range.end; gfn += 1) TryMap(stage2, gfn, 0, kMyTag);
  Unmap(stage2, range);
}

// One block is a leaf, is split into pages, and becomes a leaf again.
class Blocks {
 public:
  Blocks(Stage2& stage2, GfnRange block) : stage2_(stage2), block_(block) {}
  ~Blocks() { Unmap(stage2_, block_); }
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  void SplitAndCollapse() {
    pool_.Fill();
    static_cast<void>(stage2_.Split(block_, 0, pool_));
    Unmap(stage2_, block_);
    TryMap(stage2_, block_.begin, 1, kTheirTag);
  }

 private:
  Stage2& stage2_;
  const GfnRange block_;
  TablePool pool_{1};
};

using Step = std::function<void()>;

Variant Timed(Stage2& stage2, std::string name, uint64_t operations, uint64_t times,
              const Step& step, Partner* partner = nullptr, const Step& beside = nullptr) {
  return {.name = std::move(name),
          .run =
              [=, &stage2](Turn& turn) {
                Unmap(stage2, kMine);  // a turn beside splits in it may have left a block there
                std::unique_ptr<Partner::Work> work;
                if (partner != nullptr) work = std::make_unique<Partner::Work>(*partner, beside);
                const uint64_t before = work == nullptr ? 0 : work->steps();
                turn.Time(times * operations, [&] {
                  for (uint64_t i = 0; i < times; ++i) step();
                });
                if (work != nullptr && work->steps() == before) turn.Discard();
              },
          .goal = {}};
}

}  // namespace

void BenchStage2Splits(Bench& bench) {
  constexpr char kMaps[] = "stage2.two_threads.beside_splits";
  constexpr char kSplits[] = "stage2.two_threads.split_and_collapse";
  if (!bench.Wants(kMaps) && !bench.Wants(kSplits)) return;
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kMaps, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  Stage2 stage2;
  for (const Gfn gfn : kNeighbours) TryMap(stage2, gfn, 0, kMyTag);
  const Step maps = [&stage2] { MapAndUnmap(stage2, kMine); };
  const auto splits_in = [&stage2](GfnRange block) -> Step {
    return [blocks = std::make_shared<Blocks>(stage2, block)] { blocks->SplitAndCollapse(); };
  };
  const uint64_t times = bench.Operations(kTimes);
  const uint64_t blocks = bench.Operations(kBlocks);
  const auto mapping = [&](std::string name, const Step& beside = nullptr) {
    return Timed(stage2, std::move(name), kEntries, times, maps, beside ? &partner : nullptr,
                 beside);
  };
  const auto splitting = [&](std::string name, GfnRange block, Partner* beside) {
    return Timed(stage2, std::move(name), 1, blocks, splits_in(block), beside, maps);
  };
  bench.Compare({.name = kMaps,
                 .what = "map and unmap a page while another thread splits and collapses a block",
                 .variants = {mapping("alone"),
                              mapping("beside splits in another range", splits_in(kElsewhere)),
                              mapping("beside splits of the next block", splits_in(kBeside)),
                              mapping("beside splits of the same block", splits_in(kMine))}});
  bench.Compare({.name = kSplits,
                 .what = "split a block into pages and collapse it, while another thread maps and "
                         "unmaps pages",
                 .variants = {splitting("alone", kElsewhere, nullptr),
                              splitting("beside maps in another range", kElsewhere, &partner),
                              splitting("beside maps in the next block", kBeside, &partner),
                              splitting("beside maps in the same block", kMine, &partner)}});
}

}  // namespace underfoot::bench
