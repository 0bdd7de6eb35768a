// Memslot updates while a page-in never answers. Each turn has a fault whose page source returns
// only at the end of the turn, and meanwhile a slot is created and deleted again and again.
//
// The floor is the same without that fault. With the rule that an update waits until the walks that
// began before it have left, a fault that keeps its read section while its page is brought in holds
// up every update: that comparator ends only because it gives up after a number of looks.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/gate.h"
#include "tests/bench/resident_vm.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 64;
constexpr Gfn kHungPage{5};
constexpr uint64_t kUpdates = 500;  // in a turn
constexpr uint64_t kPatience = 1'000'000;

// Brings in every page at once but one, which waits for the end of the turn.
class HangingPages final : public PageSource {
 public:
  HvaRange hvas() const { return pages_.hvas(); }
  Gate& asked() { return asked_; }
  Gate& answer() { return answer_; }
  PageInResult PageIn(Hva page, Access access, FaultContext* context) override {
    if (page == hvas().begin + kHungPage.value * kPageSize) {
      asked_.Open();
      answer_.Await();
    }
    return pages_.PageIn(page, access, context);
  }

 private:
  Gate asked_;
  Gate answer_;
  ResidentPages pages_{kPages};
};

void UpdateTimed(Mmu& mmu, Hva hva, uint64_t updates, Turn& turn) {
  const MemslotConfig second{.id = 1, .gfns = {{kPages}, {2 * kPages}}, .hva = hva};
  for (uint64_t i = 0; i < updates; ++i) {
    const Stopwatch watch;
    const absl::Status created = mmu.CreateMemslot(second);
    UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused", created.raw_code(), 0);
    static_cast<void>(mmu.DeleteMemslot(second.id));
    turn.Record(watch.ElapsedNs());
  }
}

enum class PageIns { kAnswer, kHang };

Variant Ours(const Bench& bench, std::string name, PageIns page_ins) {
  return {.name = std::move(name),
          .run =
              [page_ins, updates = bench.Operations(kUpdates)](Turn& turn) {
                HangingPages pages;
                Mmu mmu(pages);
                const absl::Status created = mmu.CreateMemslot(
                    {.id = 0, .gfns = {{0}, {kPages}}, .hva = pages.hvas().begin});
                UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused",
                                created.raw_code(), 0);
                if (page_ins == PageIns::kAnswer) {
                  return UpdateTimed(mmu, pages.hvas().begin, updates, turn);
                }
                std::thread faulting([&mmu] {
                  Reader reader(mmu.readers());
                  static_cast<void>(mmu.faults().FaultIn(reader, kHungPage, Access::kWrite));
                });
                pages.asked().Await();
                UpdateTimed(mmu, pages.hvas().begin, updates, turn);
                pages.answer().Open();
                faulting.join();
              },
          .goal = {}};
}

// Walks that an update waits for.
class CountedWalks {
 public:
  void Enter() { inside_.fetch_add(1, kAcqRel); }
  void Leave() { inside_.fetch_sub(1, kAcqRel); }
  // False: given up.
  [[nodiscard]] bool AwaitThoseInside(uint64_t patience) const {
    for (uint64_t looks = 0; looks < patience; ++looks) {
      if (inside_.load(kAcquire) == 0) return true;
      CpuRelax();
    }
    return false;
  }

 private:
  std::atomic<uint64_t> inside_{0};
};

Variant SectionAcrossPageIn(const Bench& bench) {
  return {.name = absl::StrCat("read section held across the page-in: given up after ", kPatience,
                               " looks"),
          .run =
              [patience = bench.Operations(kPatience)](Turn& turn) {
                CountedWalks walks;
                Gate asked;
                Gate answer;
                std::thread faulting([&] {
                  walks.Enter();
                  asked.Open();
                  answer.Await();
                  walks.Leave();
                });
                asked.Await();
                bool ended = false;
                turn.Time(1, [&] { ended = walks.AwaitThoseInside(patience); });
                UNDERFOOT_CHECK(!ended, "an update ended before the page-in", patience, 0);
                answer.Open();
                faulting.join();
              },
          .goal = {}};
}

}  // namespace

void BenchHungPageIn(Bench& bench) {
  constexpr char kName[] = "memslot.update_beside_hung_page_in";
  if (!bench.Wants(kName)) return;
  bench.Compare({.name = kName,
                 .what = "a slot is created and deleted while a page source does not answer",
                 .variants = {Ours(bench, "ours, every page-in answers", PageIns::kAnswer),
                              Ours(bench, "ours, one page-in hangs", PageIns::kHang),
                              SectionAcrossPageIn(bench)},
                 .rounds = 12});
}

}  // namespace underfoot::bench
