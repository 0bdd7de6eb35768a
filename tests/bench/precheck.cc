// Is the precheck of a pfn cache's invalidation worth it? Three questions beside the number of
// caches, which invalidation.nothing sweeps: what it costs where invalidations do overlap a cache
// (the precheck then saves nothing), what a reader keeps of its speed at a rate of invalidations,
// and how long one access of that reader may be held up.
//
// The floor of an overlapping invalidation is the way to the reader's cache line and back. The
// floor for a reader is no effect at all: no invalidation here overlaps its cache.

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/cache_list.h"
#include "tests/bench/cpus.h"
#include "tests/bench/many_caches.h"
#include "tests/bench/pace.h"
#include "tests/bench/partner.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kListed[] = {1, 64};
constexpr uint64_t kPercents[] = {0, 25, 50, 75, 100};
constexpr uint64_t kRates[] = {10'000, 100'000, 0};  // 0: without a pause
constexpr uint64_t kListedBesideReader = 64;
constexpr uint64_t kInvalidations = 1'000;
// A turn is long enough for a few invalidations, and short enough not to be preempted in most
// rounds.
constexpr uint64_t kReads = 50'000;       // in a loop
constexpr uint64_t kTimedReads = 20'000;  // one by one
constexpr uint64_t kReadsOfAStep = 64;

// A set of caches that is invalidated in one of the ways. Read, RefreshFirst: of the first cache.
struct Scheme {
  std::string name;
  std::function<void(uint64_t times)> read;
  std::function<void()> refresh_first;
  std::function<void(bool overlapping)> invalidate;
};

std::array<Scheme, 5> Schemes(uint64_t caches) {
  const auto ours = std::make_shared<ManyCaches>(caches);
  const auto of_list = [&](std::string name, CacheList::Search search) {
    const auto list = std::make_shared<CacheList>(ours->First().begin, caches);
    return Scheme{
        .name = std::move(name),
        .read =
            [list](uint64_t times) {
              for (uint64_t i = 0; i < times; ++i) {
                KeepAlive(list->ReadFirst().value_or(0));
              }
            },
        .refresh_first = [list] { list->ValidateFirst(); },
        .invalidate =
            [list, search, first = ours->First(), between = ours->Between()](bool overlapping) {
              list->Invalidate(overlapping ? first : between, search);
            }};
  };
  return {of_list("list, always the write lock", CacheList::Search::kWriteLocked),
          of_list("list, precheck under read lock", CacheList::Search::kReadLocked),
          of_list("list, precheck without a lock", CacheList::Search::kLockless),
          of_list("index by hva under one lock", CacheList::Search::kIndexed),
          Scheme{.name = "ours",
                 .read = [ours](uint64_t times) { ours->ReadFirst(times); },
                 .refresh_first = [ours] { ours->RefreshFirst(); },
                 .invalidate =
                     [ours](bool overlapping) {
                       ours->Invalidate(overlapping ? ours->First() : ours->Between());
                     }}};
}

Variant Overlapping(const Bench& bench, Partner& partner, Scheme scheme, uint64_t percent) {
  return {.name = scheme.name,
          .run =
              [&partner, scheme, percent, n = bench.Operations(kInvalidations)](Turn& turn) {
                const Partner::Work work(partner, [&] { scheme.read(kReadsOfAStep); });
                const uint64_t before = work.steps();
                double sum = 0;
                for (uint64_t i = 0; i < n; ++i) {
                  // Spread evenly over the turn.
                  const bool overlaps = (i + 1) * percent / 100 != i * percent / 100;
                  const Stopwatch watch;
                  scheme.invalidate(overlaps);
                  sum += watch.ElapsedNs();
                  if (overlaps) scheme.refresh_first();
                }
                turn.Record(sum / static_cast<double>(n));
                if (work.steps() == before) turn.Discard();
              },
          .goal = {}};
}

void CompareOverlaps(Bench& bench, Partner& partner) {
  for (const uint64_t caches : kListed) {
    const std::array<Scheme, 5> schemes = Schemes(caches);
    for (const uint64_t percent : kPercents) {
      const std::string curve = absl::StrCat("precheck.overlap.", caches, "_caches");
      Comparison comparison{
          .name = absl::StrCat(curve, ".", percent, "_percent"),
          .what = absl::StrCat("an invalidation with ", caches, " caches listed; ", percent,
                               " % overlap the one that the other CPU reads"),
          .variants = {},
          .sweep = SweepPoint{curve, "% of the invalidations that overlap",
                              static_cast<double>(percent)}};
      for (const Scheme& scheme : schemes) {
        comparison.variants.push_back(Overlapping(bench, partner, scheme, percent));
      }
      bench.Compare(std::move(comparison));
    }
  }
}

enum class Of { kThroughput, kStall };

Variant Reading(const Bench& bench, Partner& partner, std::string name, const Scheme& scheme, Of of,
                std::optional<uint64_t> rate) {
  return {.name = std::move(name),
          .run =
              [&partner, scheme, of, rate,
               n = bench.Operations(of == Of::kThroughput ? kReads : kTimedReads)](Turn& turn) {
                const auto read = [&] {
                  if (of == Of::kThroughput) return turn.Time(n, [&] { scheme.read(n); });
                  for (uint64_t i = 0; i < n; ++i) turn.Time(1, [&] { scheme.read(1); });
                };
                if (!rate.has_value()) return read();
                Pace pace(*rate);
                const Partner::Work work(partner, [&] {
                  pace.AwaitNext();
                  scheme.invalidate(false);
                });
                const uint64_t before = work.steps();
                read();
                // A slow rate makes none in most turns of a fast reader: that is what is measured.
                if (*rate == 0 && work.steps() == before) turn.Discard();
              },
          .goal = {}};
}

void CompareReading(Bench& bench, Partner& partner) {
  const std::array<Scheme, 5> schemes = Schemes(kListedBesideReader);
  for (const Of of : {Of::kThroughput, Of::kStall}) {
    const std::string curve = of == Of::kThroughput ? "precheck.reader" : "precheck.stall";
    for (const uint64_t rate : kRates) {
      Comparison comparison{
          .name =
              absl::StrCat(curve, ".", rate == 0 ? "unpaused" : absl::StrCat(rate, "_a_second")),
          .what = absl::StrCat(
              of == Of::kThroughput ? "an access in a loop" : "each access, timed alone",
              ", to one of ", kListedBesideReader, " caches, none of which is overlapped by ",
              rate == 0 ? "invalidations without a pause" : absl::StrCat(rate, " invalidations/s")),
          .variants = {Reading(bench, partner, "ours, nothing is invalidated", schemes.back(), of,
                               std::nullopt)},
          .rounds = 20};
      // The rate without a pause depends on the scheme, so it is no point of the curve.
      if (rate != 0) {
        comparison.sweep = SweepPoint{curve, "invalidations/s", static_cast<double>(rate)};
      }
      for (const Scheme& scheme : schemes) {
        comparison.variants.push_back(Reading(bench, partner, scheme.name, scheme, of, rate));
      }
      bench.Compare(std::move(comparison));
    }
  }
}

}  // namespace

void BenchPrecheck(Bench& bench) {
  constexpr char kName[] = "precheck";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  CompareOverlaps(bench, partner);
  CompareReading(bench, partner);
}

}  // namespace underfoot::bench
