// A refresh of a pfn cache beside invalidations of other pages: how often each rule retries for
// nothing, and how long the cache takes to become valid.
//
// The floor is one look-up and no retry. Brackets lie below and above the cache's page in turns, so
// that the hull of two in flight covers the page. A refresh that was retried kPatience times is
// given up: its time is then a lower bound, and its number of retries is kPatience.

#include "tests/bench/comparators/retry_rules.h"

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "mmu/pfn_cache.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/pace.h"
#include "tests/bench/partner.h"
#include "tests/bench/resident_vm.h"

namespace underfoot::bench {
namespace {

using std::chrono::microseconds;

constexpr uint64_t kRates[] = {0, 100, 1'000, 10'000, 50'000, 100'000};  // a second
constexpr uint64_t kLookUps[] = {1, 3, 10, 30};                          // microseconds
constexpr uint64_t kHighestRate = 100'000;
constexpr microseconds kLookUp{3};
constexpr microseconds kBracket{15};
constexpr uint64_t kPatience = 100;
constexpr uint64_t kRefreshes = 40;
constexpr uint64_t kLeastRefreshes = 4;
constexpr std::chrono::milliseconds kLongTurn{5};  // ends after the least refreshes
constexpr uint64_t kPages = 64;
constexpr uint64_t kPage = 32;

// Always present, but it takes a while to say so.
class SlowPages final : public PageSource {
 public:
  explicit SlowPages(microseconds time) : time_(time) {}
  HvaRange hvas() const { return pages_.hvas(); }
  PageInResult PageIn(Hva page, Access access, FaultContext* context) override {
    SpinUntil(Clock::now() + time_);
    return pages_.PageIn(page, access, context);
  }

 private:
  const microseconds time_;
  ResidentPages pages_{kPages};
};

struct Outcome {
  double ns = 0;
  uint64_t retries = 0;
};

// Begin and End of a page, one thread; Refresh, another.
struct Rule {
  std::string name;
  std::function<void(uint64_t page)> begin;
  std::function<void()> end_oldest;
  std::function<Outcome()> refresh;
};

struct OurWorld {
  explicit OurWorld(microseconds look_up) : pages(look_up), mmu(pages) {
    const absl::Status created =
        mmu.CreateMemslot({.id = 0, .gfns = {{0}, {kPages}}, .hva = pages.hvas().begin});
    UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused", created.raw_code(), 0);
    const absl::Status active = cache.Activate(reader, GpaOf(Gfn{kPage}), 8, Access::kRead);
    UNDERFOOT_CHECK(active.ok(), "a benchmark's cache was refused", active.raw_code(), 0);
  }
  ~OurWorld() { cache.Deactivate(); }
  OurWorld(const OurWorld&) = delete;
  OurWorld& operator=(const OurWorld&) = delete;

  HvaRange PageAt(uint64_t page) const {
    return PageRangeOf(pages.hvas().begin + page * kPageSize);
  }
  BracketToken Begin(uint64_t page) {
    return mmu.notifier().Begin({PageAt(page), InvalidationKind::kUnmap});
  }

  SlowPages pages;
  Mmu mmu;
  Reader reader{mmu.readers()};
  PfnCache cache{mmu, "bench"};
  std::deque<BracketToken> open;
};

Rule Ours(microseconds look_up) {
  auto world = std::make_shared<OurWorld>(look_up);
  return {
      .name = "precise set (ours)",
      .begin = [world](uint64_t page) { world->open.push_back(world->Begin(page)); },
      .end_oldest =
          [world] {
            world->mmu.notifier().End(world->open.front());
            world->open.pop_front();
          },
      .refresh =
          [world] {
            BracketToken dropped = world->Begin(kPage);
            world->mmu.notifier().End(dropped);
            const uint64_t before = world->mmu.caches().refresh_retries().Get();
            const Stopwatch watch;
            static_cast<void>(world->cache.Refresh(world->reader));
            return Outcome{watch.ElapsedNs(), world->mmu.caches().refresh_retries().Get() - before};
          }};
}

Rule Theirs(std::string name, RetryRule rule, microseconds look_up) {
  auto invalidations = std::make_shared<CountedInvalidations>(rule);
  const auto page_at = [](uint64_t page) { return PageRangeOf(Hva{(page + 1) * kPageSize}); };
  return {.name = std::move(name),
          .begin = [=](uint64_t page) { invalidations->Begin(page_at(page)); },
          .end_oldest = [=] { invalidations->End(); },
          .refresh =
              [=] {
                const Stopwatch watch;
                const auto refreshed = invalidations->Refresh(
                    page_at(kPage), kPatience, [look_up] { SpinUntil(Clock::now() + look_up); });
                return Outcome{watch.ElapsedNs(), refreshed.retries};
              }};
}

// Brackets of unrelated pages: one begins at each tick of the rate and ends kBracket later.
class Storm {
 public:
  Storm(const Rule& rule, uint64_t rate)
      : rule_(rule), period_(std::chrono::nanoseconds(std::chrono::seconds(1)) / rate) {}
  ~Storm() {
    for (; !ends_.empty(); ends_.pop_front()) rule_.end_oldest();
  }
  Storm(const Storm&) = delete;
  Storm& operator=(const Storm&) = delete;

  // The next event, when it is due.
  void Step() {
    if (!ends_.empty() && ends_.front() <= next_begin_) {
      SpinUntil(ends_.front());
      rule_.end_oldest();
      ends_.pop_front();
      return;
    }
    SpinUntil(next_begin_);
    below_ = !below_;
    rule_.begin(below_ ? kPage - 4 : kPage + 4);
    const Clock::time_point now = Clock::now();
    ends_.push_back(now + kBracket);
    next_begin_ = std::max(next_begin_ + period_, now);
  }

 private:
  const Rule& rule_;
  const Clock::duration period_;
  Clock::time_point next_begin_ = Clock::now();
  std::deque<Clock::time_point> ends_;
  bool below_ = false;
};

// Begins and ends since then.
double ExpectedSteps(Clock::time_point start, uint64_t rate) {
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return 2 * static_cast<double>(rate) * seconds - 4;
}

enum class Figure { kTime, kRetries };

Variant Refreshing(const Bench& bench, Partner& partner, Rule rule, uint64_t rate, Figure figure) {
  return {.name = rule.name,
          .run =
              [&partner, rule, rate, figure, n = bench.Operations(kRefreshes)](Turn& turn) {
                std::unique_ptr<Storm> storm;
                std::unique_ptr<Partner::Work> work;
                if (rate != 0) {
                  storm = std::make_unique<Storm>(rule, rate);
                  work = std::make_unique<Partner::Work>(partner, [&] { storm->Step(); });
                }
                const uint64_t before = work == nullptr ? 0 : work->steps();
                const Clock::time_point start = Clock::now();
                for (uint64_t i = 0;
                     i < n && (i < kLeastRefreshes || Clock::now() - start < kLongTurn); ++i) {
                  const Outcome outcome = rule.refresh();
                  turn.Record(figure == Figure::kTime ? outcome.ns
                                                      : static_cast<double>(outcome.retries));
                  // Not in step with the brackets.
                  SpinUntil(Clock::now() + std::chrono::nanoseconds(7'000 + i * 1'237 % 20'000));
                }
                if (work != nullptr &&
                    static_cast<double>(work->steps() - before) < ExpectedSteps(start, rate) / 2) {
                  turn.Discard();  // the other thread did not get its CPU
                }
                work.reset();  // before the storm ends
              },
          .goal = {}};
}

void CompareRules(Bench& bench, Partner& partner, const std::string& curve, std::string what,
                  SweepPoint point, microseconds look_up, uint64_t rate) {
  for (const Figure figure : {Figure::kTime, Figure::kRetries}) {
    SweepPoint sweep = point;
    sweep.curve = absl::StrCat(curve, figure == Figure::kTime ? ".time" : ".retries");
    Comparison comparison{.name = absl::StrCat(sweep.curve, ".", point.value, "_", point.variable),
                          .what = what,
                          .variants = {},
                          .rounds = 12,
                          .unit = figure == Figure::kTime ? "ns" : "retries",
                          .sweep = sweep};
    for (Rule rule :
         {Ours(look_up), Theirs("min-max hull", RetryRule::kHull, look_up),
          Theirs("dedicated sequence", RetryRule::kSequence, look_up),
          Theirs("count != 0, or the sequence moved", RetryRule::kCountOrSequence, look_up)}) {
      comparison.variants.push_back(Refreshing(bench, partner, std::move(rule), rate, figure));
    }
    bench.Compare(std::move(comparison));
  }
}

// What is promised: unrelated invalidations do not slow a refresh down.
void CompareWithQuiet(Bench& bench, Partner& partner) {
  const auto variant = [&](Rule rule, std::string name, uint64_t rate) {
    rule.name = std::move(name);
    return Refreshing(bench, partner, std::move(rule), rate, Figure::kTime);
  };
  const auto kernels = [] { return Theirs("", RetryRule::kCountOrSequence, kLookUp); };
  Comparison comparison{
      .name = "retry.beside_storm",
      .what = absl::StrCat("a refresh with a look-up of ", kLookUp.count(),
                           " us, quiet and beside ", kHighestRate, " unrelated brackets a second"),
      .variants = {variant(Ours(kLookUp), "ours, quiet", 0),
                   variant(Ours(kLookUp), "ours, beside the brackets", kHighestRate),
                   variant(kernels(), "count != 0, or the sequence moved; quiet", 0),
                   variant(kernels(), "the same, beside the brackets", kHighestRate)},
      .rounds = 20};
  comparison.variants[1].goal = {.of = Goal::Of::kRatio, .at_most = 1.1};
  bench.Compare(std::move(comparison));
}

}  // namespace

void BenchRetryRules(Bench& bench) {
  constexpr char kName[] = "retry";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kName, "it takes two CPUs");
  const Pinned pinned(cpus.front());
  Partner partner(cpus[1]);
  for (const uint64_t rate : kRates) {
    CompareRules(bench, partner, "retry.rate",
                 absl::StrCat("a refresh with a look-up of ", kLookUp.count(), " us, beside ", rate,
                              " unrelated brackets of ", kBracket.count(), " us a second"),
                 {"", "per_second", static_cast<double>(rate)}, kLookUp, rate);
  }
  for (const uint64_t us : kLookUps) {
    CompareRules(bench, partner, "retry.look_up",
                 absl::StrCat("a refresh with a look-up of ", us, " us, beside ", kHighestRate,
                              " unrelated brackets of ", kBracket.count(), " us a second"),
                 {"", "us", static_cast<double>(us)}, microseconds(us), kHighestRate);
  }
  CompareWithQuiet(bench, partner);
}

}  // namespace underfoot::bench
