// Memslots: what an update and a look-up cost with few slots and with as many as there may be, and
// whether an update ends while brackets overlap without a gap (I9).

#include "mmu/memslot.h"

#include <sched.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/counted_brackets.h"
#include "tests/bench/comparators/sorted_memslots.h"
#include "tests/bench/cpus.h"
#include "tests/bench/resident_vm.h"

namespace underfoot::bench {
namespace {

constexpr uint32_t kSizes[] = {16, 512, kMaxMemslots};
constexpr uint32_t kSmokeSize = 2048;  // at most, in a smoke run
constexpr uint64_t kSlotPages = 8;
constexpr uint64_t kLookups = 100'000;

// The `i`-th of `count` slots with a hole behind each; in host memory they lie the other way round.
Memslot SlotAt(uint32_t i, uint32_t count) {
  const uint64_t gfn = 2 * kSlotPages * i;
  return {.id = i,
          .gfns = {{gfn}, {gfn + kSlotPages}},
          .hva = {uint64_t{1} << 40 | (count - i) * 2 * kSlotPages * kPageSize}};
}

// A slot goes, in two phases, and comes again: three publications.
template <class Table>
Variant Updates(const Bench& bench, std::string name, std::shared_ptr<Table> table,
                uint32_t count) {
  return {.name = std::move(name),
          .run =
              [=, numbers = std::mt19937_64(bench.seed())](Turn& turn) mutable {
                const uint32_t id = static_cast<uint32_t>(numbers() % count);
                turn.Time(3, [&] {
                  static_cast<void>(table->MarkDying(id));
                  table->Erase(id);
                  static_cast<void>(table->Add(SlotAt(id, count)));
                });
                rcu::Barrier();  // what the next turn allocates is free again
              },
          .goal = {}};
}

void CompareUpdates(Bench& bench, uint32_t count, std::shared_ptr<MemslotTable> ours) {
  std::vector<Memslot> slots;
  for (uint32_t i = 0; i < count; ++i) slots.push_back(SlotAt(i, count));
  auto sorted = std::make_shared<SortedMemslots>(std::move(slots));
  bench.Compare({.name = absl::StrCat("memslot.update.", count, "_slots"),
                 .what = "the publication of a set with one slot more, less, or changed",
                 .variants = {Updates(bench, "ours", std::move(ours), count),
                              Updates(bench, "copied and sorted anew", std::move(sorted), count)}});
}

template <class Find>
Variant LookUps(std::string name, const MemslotTable& table, std::vector<uint32_t> order,
                const Find& find) {
  return {.name = std::move(name),
          .run =
              [&table, order = std::move(order), find](Turn& turn) {
                const rcu::ReadScope scope;
                const MemslotSet& set = table.Current();
                turn.Time(order.size(), [&] {
                  for (const uint32_t i : order) KeepAlive(find(set, i));
                });
              },
          .goal = {}};
}

void CompareLookUps(Bench& bench, const std::vector<std::shared_ptr<MemslotTable>>& tables) {
  Comparison by_gfn{
      .name = "memslot.lookup.by_gfn", .what = "the slot of a random guest frame", .variants = {}};
  Comparison by_hva{
      .name = "memslot.lookup.by_hva", .what = "the slots of a random host page", .variants = {}};
  std::mt19937_64 numbers(bench.seed());
  for (const auto& table : tables) {
    const auto count = static_cast<uint32_t>(table->Current().size());
    std::vector<uint32_t> order(bench.Operations(kLookups));
    for (uint32_t& i : order) i = static_cast<uint32_t>(numbers() % count);
    const std::string name = absl::StrCat(count, " slots");
    by_gfn.variants.push_back(LookUps(name, *table, order, [](const MemslotSet& set, uint32_t i) {
      return set.Find(Gfn{2 * kSlotPages * i + 3});
    }));
    by_hva.variants.push_back(
        LookUps(name, *table, order, [count](const MemslotSet& set, uint32_t i) {
          const Memslot* found = nullptr;
          set.ForEachOverlap(PageRangeOf(SlotAt(i, count).hva),
                             [&](const Memslot& slot, HvaRange) { found = &slot; });
          return found;
        }));
  }
  bench.Compare(std::move(by_gfn));
  bench.Compare(std::move(by_hva));
}

// Two threads on one CPU that hand over, so that one of them has a bracket open at every moment.
class OverlappingBrackets {
 public:
  // `bracket(inside)` begins one, calls inside(), and ends it.
  using Bracket = std::function<void(const std::function<void()>& inside)>;

  OverlappingBrackets(int cpu, Bracket bracket) : bracket_(std::move(bracket)) {
    for (unsigned me = 0; me < 2; ++me) threads_[me] = std::thread([=, this] { Main(cpu, me); });
    while (begun_[0].load() < 2 || begun_[1].load() < 2) sched_yield();
  }
  ~OverlappingBrackets() {
    stop_.store(true);
    for (std::thread& thread : threads_) thread.join();
  }
  OverlappingBrackets(const OverlappingBrackets&) = delete;
  OverlappingBrackets& operator=(const OverlappingBrackets&) = delete;

  // Returns when those that are open at the call have ended.
  void AwaitThoseInFlight() const {
    std::array<uint64_t, 2> open;
    for (unsigned i = 0; i < 2; ++i) open[i] = begun_[i].load();
    for (unsigned i = 0; i < 2; ++i) {
      while (ended_[i].load() < open[i]) CpuRelax();
    }
  }

 private:
  void Main(int cpu, unsigned me) {
    const Pinned pinned(cpu);
    while (!stop_.load()) {
      bracket_([&] {
        ++begun_[me];
        turn_.store(me);
        while (turn_.load() == me && !stop_.load()) sched_yield();  // until the other has begun
      });
      ++ended_[me];
    }
  }

  const Bracket bracket_;
  std::array<std::atomic<uint64_t>, 2> begun_{};
  std::array<std::atomic<uint64_t>, 2> ended_{};
  std::atomic<unsigned> turn_{0};
  std::atomic<bool> stop_{false};
  std::array<std::thread, 2> threads_;
};

void CompareUnderBrackets(Bench& bench, int cpu) {
  constexpr uint64_t kPages = 128;
  const uint64_t patience = bench.Operations(1000);
  ResidentVm vm(kPages);
  const MemslotConfig second{.id = 1, .gfns = {{kPages}, {2 * kPages}}, .hva = vm.PageAt(0).begin};
  CountedBrackets counted;
  // The host mm call of each bracket.
  const HvaRange changed = {vm.PageAt(0).begin, vm.PageAt(kPages / 4).begin};
  const auto change = [changed] {
    std::memset(PointerOf(changed.begin), 1, changed.size());
    const int failed = madvise(PointerOf(changed.begin), changed.size(), MADV_DONTNEED);
    UNDERFOOT_CHECK(failed == 0, "a benchmark's madvise failed", errno, 0);
  };
  const OverlappingBrackets::Bracket ours = [&](const std::function<void()>& inside) {
    const InvalidationScope scope(vm.mmu().notifier(), {changed, InvalidationKind::kUnmap});
    change();
    inside();
  };
  const OverlappingBrackets::Bracket theirs = [&](const std::function<void()>& inside) {
    counted.Begin();
    change();
    inside();
    counted.End();
  };
  bench.Compare(
      {.name = "memslot.update_under_brackets",
       .what = "a slot is deleted while two threads' brackets overlap without a gap",
       .variants = {{.name = "the longest bracket in flight",
                     .run =
                         [&](Turn& turn) {
                           const OverlappingBrackets storm(cpu, ours);
                           turn.Time(1, [&] { storm.AwaitThoseInFlight(); });
                         },
                     .goal = {}},
                    {.name = "ours",
                     .run =
                         [&](Turn& turn) {
                           const OverlappingBrackets storm(cpu, ours);
                           const absl::Status created = vm.mmu().CreateMemslot(second);
                           UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused", 1, 0);
                           turn.Time(1,
                                     [&] { static_cast<void>(vm.mmu().DeleteMemslot(second.id)); });
                         },
                     .goal = Goal{.of = Goal::Of::kRatio, .at_most = 1}},
                    {.name = absl::StrCat("wait for count == 0: given up after ", patience,
                                          " brackets"),
                     .run =
                         [&](Turn& turn) {
                           const OverlappingBrackets storm(cpu, theirs);
                           bool ended = false;
                           turn.Time(1, [&] { ended = counted.Update(patience); });
                           if (ended) turn.Discard();  // then it was not given up
                         },
                     .goal = {}}},
       .rounds = 20});
}

}  // namespace

void BenchMemslot(Bench& bench) {
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus.front());
  std::vector<std::shared_ptr<MemslotTable>> tables;
  for (const uint32_t size : kSizes) {
    const uint32_t count = bench.smoke() ? std::min(size, kSmokeSize) : size;
    tables.push_back(std::make_shared<MemslotTable>());
    for (uint32_t i = 0; i < count; ++i) {
      const absl::Status added = tables.back()->Add(SlotAt(i, count));
      UNDERFOOT_CHECK(added.ok(), "a benchmark's memslot was refused", i, count);
    }
    CompareUpdates(bench, count, tables.back());
  }
  CompareLookUps(bench, tables);
  constexpr char kUnderBrackets[] = "memslot.update_under_brackets";
  if (cpus.size() < 2) return bench.Skip(kUnderBrackets, "it takes two CPUs");
  CompareUnderBrackets(bench, cpus[1]);
}

}  // namespace underfoot::bench
