// An invalidation that overlaps no cache, as nearly every invalidation: its cost with many caches
// listed, and its cost for a reader of one of them.
//
// The floor is one locked instruction to enter the set in flight and one to leave it. For the
// reader the floor is zero, since it shares no cache line with such an invalidation.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/cache_list.h"
#include "tests/bench/cpus.h"
#include "tests/bench/many_caches.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kSizes[] = {1, 16, 256, 4096};
constexpr uint64_t kReads = 20'000;
constexpr uint64_t kReadsOfAStep = 256;

using Step = std::function<void()>;

// `measured` over and over while `beside`, if there is one, runs on the other CPU.
Variant Beside(Partner& partner, std::string name, uint64_t operations,
               std::function<void(uint64_t)> measured, Step beside) {
  return {.name = std::move(name),
          .run =
              [&partner, operations, measured = std::move(measured),
               beside = std::move(beside)](Turn& turn) {
                const auto time = [&] { turn.Time(operations, [&] { measured(operations); }); };
                if (!beside) return time();
                const Partner::Work work(partner, beside);
                const uint64_t before = work.steps();
                time();
                if (work.steps() == before) turn.Discard();
              },
          .goal = {}};
}

void CompareCosts(Bench& bench, Partner& partner, ManyCaches& caches, uint64_t count) {
  const auto list = std::make_shared<CacheList>(caches.First().begin, count);
  const Step read = [&caches] { caches.ReadOrRefreshFirst(kReadsOfAStep); };
  const Step read_list = [list] {
    for (uint64_t i = 0; i < kReadsOfAStep; ++i) KeepAlive(list->ReadFirst().value_or(0));
  };
  const auto ours = [&](std::string name, HvaRange range, const Step& beside) {
    Variant variant = Beside(
        partner, std::move(name), bench.Operations(2000),
        [&caches, range](uint64_t n) {
          for (uint64_t i = 0; i < n; ++i) caches.Invalidate(range);
        },
        beside);
    variant.goal = {.of = Goal::Of::kMedianNs, .at_most = 100};
    return variant;
  };
  const auto theirs = [&](std::string name, CacheList::Search search) {
    // The cost grows with a list, so that a turn takes as long as one of ours.
    const bool grows = search != CacheList::Search::kIndexed;
    const uint64_t operations =
        bench.Operations(grows ? std::max<uint64_t>(2000 / count, 20) : 2000);
    return Beside(
        partner, std::move(name), operations,
        [list, range = caches.Between(), search](uint64_t n) {
          for (uint64_t i = 0; i < n; ++i) list->Invalidate(range, search);
        },
        read_list);
  };
  bench.Compare(
      {.name = absl::StrCat("invalidation.nothing.", count, "_caches"),
       .what = absl::StrCat("Begin and End of a page that none of ", count,
                            " caches overlaps, one of them read all the time"),
       .variants = {ours("ours, between two caches", caches.Between(), read),
                    ours("ours, far from all", caches.Far(), read),
                    ours("ours, between, read by nobody", caches.Between(), {}),
                    theirs("list, always the write lock", CacheList::Search::kWriteLocked),
                    theirs("list, precheck under read lock", CacheList::Search::kReadLocked),
                    theirs("list, precheck without a lock", CacheList::Search::kLockless),
                    theirs("index by hva under one lock", CacheList::Search::kIndexed)},
       .sweep = SweepPoint{"invalidation.nothing", "caches", static_cast<double>(count)}});
}

// The reader is measured, the invalidations are what disturbs it.
void CompareReaders(Bench& bench, Partner& partner,
                    const std::vector<std::unique_ptr<ManyCaches>>& worlds) {
  const uint64_t reads = bench.Operations(kReads);
  ManyCaches& unrelated = *worlds.front();
  const auto invalidate = [](ManyCaches& caches) -> Step {
    return [&caches, range = caches.Between()] {
      for (int i = 0; i < 16; ++i) caches.Invalidate(range);
    };
  };
  Comparison comparison{.name = "invalidation.reader_share",
                        .what =
                            "a cache access while the other CPU invalidates other pages "
                            "without a pause; 1 / ratio is the share of its speed it keeps",
                        .variants = {},
                        .rounds = 60};
  for (const auto& world : worlds) {
    ManyCaches& caches = *world;
    if (&caches == &unrelated) continue;
    const auto read = [&caches](uint64_t n) { caches.ReadOrRefreshFirst(n); };
    const size_t count = kSizes[&world - worlds.data()];
    if (comparison.variants.empty()) {
      comparison.variants.push_back(Beside(partner, "beside another machine's invalidations", reads,
                                           read, invalidate(unrelated)));
      comparison.variants.push_back(Beside(partner, "beside an idle CPU", reads, read, {}));
    }
    comparison.variants.push_back(
        Beside(partner, absl::StrCat("among ", count, " caches"), reads, read, invalidate(caches)));
    comparison.variants.back().goal = {.of = Goal::Of::kRatio, .at_most = 1 / 0.9};
  }
  bench.Compare(std::move(comparison));
}

void CompareListReaders(Bench& bench, Partner& partner, Hva first) {
  constexpr uint64_t kCount = 16;
  const uint64_t reads = bench.Operations(kReads);
  const auto list = std::make_shared<CacheList>(first, kCount);
  const auto read = [list](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) KeepAlive(list->ReadFirst().value_or(0));
  };
  const auto invalidate = [&](CacheList::Search search) -> Step {
    return
        [list, search, range = PageRangeOf(first + kPageSize)] { list->Invalidate(range, search); };
  };
  bench.Compare({.name = "invalidation.reader_share_of_a_list",
                 .what = "the same with rwlocks and a list of 16 caches, as in the kernel",
                 .variants = {Beside(partner, "beside an idle CPU", reads, read, {}),
                              Beside(partner, "precheck under read lock", reads, read,
                                     invalidate(CacheList::Search::kReadLocked)),
                              Beside(partner, "always the write lock", reads, read,
                                     invalidate(CacheList::Search::kWriteLocked))}});
}

}  // namespace

void BenchInvalidation(Bench& bench) {
  constexpr char kName[] = "invalidation";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  std::vector<std::unique_ptr<ManyCaches>> worlds;
  for (const uint64_t count : kSizes) worlds.push_back(std::make_unique<ManyCaches>(count));
  for (size_t i = 0; i < worlds.size(); ++i) CompareCosts(bench, partner, *worlds[i], kSizes[i]);
  CompareReaders(bench, partner, worlds);
  CompareListReaders(bench, partner, worlds.front()->First().begin);
}

}  // namespace underfoot::bench
