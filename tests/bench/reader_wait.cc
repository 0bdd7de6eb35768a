// How long an invalidation takes that must wait for a reader which never stops reading.
//
// The floor is a cache line that travels to the reader's CPU and back, and the rest of its section.
// A scheme that waits for all readers, or for a grace period, pays that instead.

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "tests/bench/bench.h"
#include "tests/bench/cached_word.h"
#include "tests/bench/comparators/protected_word.h"
#include "tests/bench/comparators/qsbr_word.h"
#include "tests/bench/comparators/srcu_rseq.h"
#include "tests/bench/cpus.h"
#include "tests/bench/partner.h"
#include "tests/bench/resident_vm.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kInvalidations = 400;
constexpr uint64_t kReadsOfAStep = 64;

class CacheUnderInvalidation {
 public:
  CacheUnderInvalidation() {
    for (PfnCache* cache : {&cache_, &neighbour_}) {
      const Gfn gfn = cache == &cache_ ? kGfn : kGfn + 1;
      const absl::Status active = cache->Activate(mine_, GpaOf(gfn), 8, Access::kRead);
      UNDERFOOT_CHECK(active.ok(), "a benchmark's cache was refused", active.raw_code(), 0);
    }
  }
  ~CacheUnderInvalidation() {
    cache_.Deactivate();
    neighbour_.Deactivate();
  }
  CacheUnderInvalidation(const CacheUnderInvalidation&) = delete;
  CacheUnderInvalidation& operator=(const CacheUnderInvalidation&) = delete;

  void ReadStep() {
    for (uint64_t i = 0; i < kReadsOfAStep; ++i) KeepAlive(word_.Read(0).value_or(0));
  }
  void ReadOrRefreshStep() {
    for (uint64_t i = 0; i < kReadsOfAStep; ++i) KeepAlive(word_.ReadOrRefresh());
  }
  // Other readers that are inside a section of the neighbour's page, for as long as the result lives.
  std::shared_ptr<void> ReadersElsewhere(unsigned count) {
    struct Inside {
      Inside(ReaderRegistry& readers, PfnCache& cache)
          : reader(readers), section(cache.Check(reader)) {
        UNDERFOOT_CHECK(section, "a benchmark's cache is not valid", 0, 0);
      }
      Reader reader;
      CacheSection section;
    };
    auto inside = std::make_shared<std::deque<Inside>>();
    for (unsigned i = 0; i < count; ++i) inside->emplace_back(vm_.mmu().readers(), neighbour_);
    return inside;
  }
  void Refresh() { static_cast<void>(cache_.Refresh(mine_)); }
  // Begin alone: when it returns no reader is left.
  void InvalidateTimed(Turn& turn) {
    const Stopwatch watch;
    BracketToken token =
        vm_.mmu().notifier().Begin({vm_.PageAt(kGfn.value), InvalidationKind::kUnmap});
    turn.Record(watch.ElapsedNs());
    vm_.mmu().notifier().End(token);
  }

 private:
  static constexpr Gfn kGfn{5};
  ResidentVm vm_{16};
  Reader mine_{vm_.mmu().readers()};
  Reader readers_{vm_.mmu().readers()};
  PfnCache cache_{vm_.mmu(), "bench"};
  PfnCache neighbour_{vm_.mmu(), "keeps the table"};
  CachedWord word_{cache_, readers_};
};

using SharedCache = std::shared_ptr<CacheUnderInvalidation>;

Variant Unread(const Bench& bench, SharedCache cache) {
  return {.name = "pfn cache, read by nobody",
          .run =
              [=, n = bench.Operations(kInvalidations)](Turn& turn) {
                for (uint64_t i = 0; i < n; ++i) {
                  cache->Refresh();
                  cache->InvalidateTimed(turn);
                }
              },
          .goal = {}};
}

// The reader has had a quiet time in which it took its bias: the Begin pays a membarrier for that.
Variant FirstAfterQuiet(const Bench& bench, Partner& partner, SharedCache cache) {
  return {.name = "pfn cache, busy reader, first in a while",
          .run =
              [=, &partner, n = bench.Operations(kInvalidations / 10)](Turn& turn) {
                const Partner::Work work(partner, [&] { cache->ReadStep(); });
                for (uint64_t i = 0; i < n; ++i) {
                  cache->Refresh();
                  work.WaitForSteps(2 * ReaderBias::kWindow / kReadsOfAStep + 2);
                  cache->InvalidateTimed(turn);
                }
              },
          .goal = {}};
}

// A reader that is woken when it may continue does not compete for the locks of a refresh
// meanwhile.
Variant BusyReader(const Bench& bench, Partner& partner, SharedCache cache) {
  return {.name = "pfn cache, busy reader",
          .run =
              [=, &partner, n = bench.Operations(kInvalidations)](Turn& turn) {
                const Partner::Work work(partner, [&] { cache->ReadStep(); });
                for (uint64_t i = 0; i < n; ++i) {
                  cache->Refresh();
                  work.WaitForSteps(2);
                  cache->InvalidateTimed(turn);
                }
              },
          .goal = Goal{.of = Goal::Of::kP99Ns, .at_most = 500}};
}

Variant BusyRefresher(const Bench& bench, Partner& partner, SharedCache cache) {
  return {.name = "pfn cache, busy reader, refreshes at once",
          .run =
              [=, &partner, n = bench.Operations(kInvalidations)](Turn& turn) {
                const Partner::Work work(partner, [&] { cache->ReadOrRefreshStep(); });
                for (uint64_t i = 0; i < n; ++i) {
                  work.WaitForSteps(2);
                  cache->InvalidateTimed(turn);
                }
              },
          .goal = {}};
}

Variant WithOthersElsewhere(const Bench& bench, Partner& partner, SharedCache cache,
                            unsigned readers) {
  return {
      .name = absl::StrCat(readers, readers == 1 ? " reader" : " readers, all but it elsewhere"),
      .run =
          [=, &partner, n = bench.Operations(kInvalidations)](Turn& turn) {
            const std::shared_ptr<void> elsewhere = cache->ReadersElsewhere(readers - 1);
            const Partner::Work work(partner, [&] { cache->ReadStep(); });
            for (uint64_t i = 0; i < n; ++i) {
              cache->Refresh();
              work.WaitForSteps(2);
              cache->InvalidateTimed(turn);
            }
          },
      .goal = readers == 1 ? std::nullopt
                           : std::optional(Goal{.of = Goal::Of::kRatio, .at_most = 1.5})};
}

template <class Protected>
Variant Theirs(const Bench& bench, Partner& partner, std::string name) {
  return {.name = std::move(name),
          .run =
              [&partner, n = bench.Operations(kInvalidations),
               word = std::make_shared<Protected>()](Turn& turn) {
                const Partner::Work work(partner, [&] {
                  for (uint64_t i = 0; i < kReadsOfAStep; ++i) KeepAlive(word->Read(0).value_or(0));
                });
                for (uint64_t i = 0; i < n; ++i) {
                  work.WaitForSteps(2);
                  turn.Time(1, [&] { word->Invalidate(); });
                  word->Validate();
                }
              },
          .goal = {}};
}

}  // namespace

void BenchReaderWait(Bench& bench) {
  constexpr char kName[] = "cache.invalidate_and_wait";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  const auto cache = std::make_shared<CacheUnderInvalidation>();
  Comparison comparison{
      .name = kName,
      .what = "take a translation away and wait for its one reader, on the other CPU",
      .variants = {Unread(bench, cache), BusyReader(bench, partner, cache),
                   BusyRefresher(bench, partner, cache), FirstAfterQuiet(bench, partner, cache),
                   Theirs<SlotWord>(bench, partner, "slot with exchange, nothing else"),
                   Theirs<EvenOddWord>(bench, partner, "even/odd counter"),
                   Theirs<AsymmetricWord>(bench, partner, "slot, asymmetric (membarrier)"),
                   Theirs<SeqlockWord>(bench, partner, "seqlock (protects nothing)"),
                   Theirs<LockedWord<SpinRwLock>>(bench, partner, "spinning rwlock"),
                   Theirs<LockedWord<std::shared_mutex>>(bench, partner, "std::shared_mutex"),
                   Theirs<LockedWord<AbslRwLock>>(bench, partner, "absl::Mutex"),
                   Theirs<RcuWord>(bench, partner, "RCU, memb"),
                   Theirs<QsbrWord>(bench, partner, "RCU, qsbr")},
      .rounds = 20};
  if (const std::string reason = SrcuRseq::UnavailableReason(); reason.empty()) {
    comparison.variants.push_back(Theirs<SrcuRseqWord>(bench, partner, "SRCU-like, rseq"));
  } else {
    bench.Skip("cache.invalidate_and_wait, SRCU-like with rseq", reason);
  }
  bench.Compare(std::move(comparison));
  bench.Compare({.name = "cache.begin_beside_readers",
                 .what = "Begin on a page that one busy reader reads, and no other",
                 .variants = {WithOthersElsewhere(bench, partner, cache, 1),
                              WithOthersElsewhere(bench, partner, cache, 32)},
                 .rounds = 20});
}

}  // namespace underfoot::bench
