// Looking a page up: stage-2 with leaves of 4 KiB over 4 GiB, against its own four loads without
// checks, a flat array, and a hash map.
//
// The floor of four levels is four dependent loads, of which the upper ones stay in the cache. The
// floor of any table is one load from an array, which must have an element for every possible guest
// frame.

#include <atomic>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "mmu/stage2/stage2.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/cpus.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = uint64_t{1} << 20;
constexpr uint64_t kSmokePages = uint64_t{1} << 12;
constexpr uint64_t kLookups = 200'000;

Pfn PfnFor(Gfn gfn) { return {gfn.value + 1}; }

// The same translations four times.
struct Translations {
  explicit Translations(uint64_t pages) : flat(pages) {
    hash.reserve(pages);
    for (Gfn gfn{0}; gfn.value < pages; gfn += 1) {
      const Pte leaf = Pte::Leaf(PfnFor(gfn), Access::kWrite);
      static_cast<void>(stage2.TryClaim(gfn, 0, Access::kWrite, kTag));
      const bool published = stage2.Publish(gfn, kTag, leaf);
      UNDERFOOT_CHECK(published, "a benchmark's claim was stolen", gfn.value, 0);
      exclusive.Map(gfn, PfnFor(gfn), Access::kWrite);
      flat[gfn.value].store(leaf.word(), kRelaxed);
      hash.emplace(gfn.value, leaf.word());
    }
  }

  static constexpr OwnerTag kTag = 1;
  Stage2 stage2;
  ExclusiveTable exclusive;
  std::vector<std::atomic<uint64_t>> flat;
  absl::flat_hash_map<uint64_t, uint64_t> hash;
};

uint64_t FindInStage2(const Translations& translations, Gfn gfn) {
  const auto leaf = translations.stage2.Lookup(gfn);
  return leaf.has_value() ? leaf->pte.word() : 0;
}

// The same loads from the same tables, without a look at what they are.
uint64_t LoadBlindly(Table& root, Gfn gfn) {
  Table* table = &root;
#pragma GCC unroll 4
  for (unsigned level = kLevels - 1; level > 0; --level) {
    table = table->entries[IndexOf(gfn, level)].Load().table();
  }
  return table->entries[IndexOf(gfn, 0)].Load().word();
}

// `find` is a template parameter, so that it is inlined where it can be.
template <class Find>
Variant Lookups(std::string name, const std::vector<uint32_t>& order, const Find& find) {
  return {.name = std::move(name),
          .run =
              [&order, find](Turn& turn) {
                turn.Time(order.size(), [&] {
                  for (const uint32_t gfn : order) KeepAlive(find(Gfn{gfn}));
                });
              },
          .goal = {}};
}

void CompareOrder(Bench& bench, Translations& translations, std::string name, std::string what,
                  const std::vector<uint32_t>& order, Goal goal) {
  Table& root = translations.stage2.RootUnsafe();
  bench.Compare(
      {.name = std::move(name),
       .what = std::move(what),
       .variants = {Lookups("stage-2's loads, made blindly", order,
                            [&](Gfn gfn) { return LoadBlindly(root, gfn); }),
                    Lookups("flat array", order,
                            [&](Gfn gfn) { return translations.flat[gfn.value].load(kRelaxed); }),
                    Lookups("stage-2, a read section each", order,
                            [&](Gfn gfn) {
                              const rcu::ReadScope scope;
                              return FindInStage2(translations, gfn);
                            }),
                    {.name = "stage-2, one read section",
                     .run =
                         [&](Turn& turn) {
                           const rcu::ReadScope scope;
                           turn.Time(order.size(), [&] {
                             for (const uint32_t gfn : order)
                               KeepAlive(FindInStage2(translations, {gfn}));
                           });
                         },
                     .goal = goal},
                    Lookups("exclusive table, not atomic", order,
                            [&](Gfn gfn) { return translations.exclusive.Lookup(gfn).word(); }),
                    Lookups("absl::flat_hash_map", order, [&](Gfn gfn) {
                      const auto found = translations.hash.find(gfn.value);
                      return found == translations.hash.end() ? 0 : found->second;
                    })}});
}

}  // namespace

void BenchStage2Lookup(Bench& bench) {
  constexpr char kSequential[] = "stage2.lookup.sequential";
  constexpr char kRandom[] = "stage2.lookup.random";
  if (!bench.Wants(kSequential) && !bench.Wants(kRandom)) return;
  const Pinned pinned(AllowedCpus().front());
  const uint64_t pages = bench.smoke() ? kSmokePages : kPages;
  Translations translations(pages);
  std::vector<uint32_t> sequential(bench.Operations(kLookups));
  std::vector<uint32_t> random(sequential.size());
  std::mt19937_64 numbers(bench.seed());
  for (size_t i = 0; i < sequential.size(); ++i) {
    sequential[i] = static_cast<uint32_t>(i % pages);
    random[i] = static_cast<uint32_t>(numbers() % pages);
  }
  CompareOrder(bench, translations, kSequential, "a page's translation, in order", sequential,
               {.of = Goal::Of::kMedianNs, .at_most = 3.5});
  CompareOrder(bench, translations, kRandom, "the same, anywhere in 4 GiB", random,
               {.of = Goal::Of::kRatio, .at_most = 1.15});
}

}  // namespace underfoot::bench
