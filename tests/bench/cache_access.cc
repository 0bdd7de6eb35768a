// What an access to guest memory costs under each scheme of reader protection: alone, and while a
// second thread reads the same.
//
// The floor is a load of the state, a load of the pointer and a load of the word, and nothing that
// would keep the page where it is: a cycle where the CPU may overlap accesses, the latency of a
// load where each access depends on the one before. A protection that pins costs at least one
// locked instruction on x86, or moves that cost to the invalidation.

#include <memory>
#include <shared_mutex>
#include <utility>

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

constexpr uint64_t kAccesses = 50'000;
constexpr uint64_t kAccessesOfAStep = 256;

// Whether an access may begin before the one before it has its data.
enum class Order { kOverlapping, kDependent };

template <class Protected>
void ReadLoop(Protected& word, uint64_t accesses, Order order) {
  if (order == Order::kOverlapping) {
    for (uint64_t i = 0; i < accesses; ++i) KeepAlive(word.Read(0).value_or(0));
    return;
  }
  uint64_t index = 0;  // and always 0, which the compiler and the CPU do not know
  for (uint64_t i = 0; i < accesses; ++i) index = word.Read(index).value_or(0);
  KeepAlive(index);
}

struct Setting {
  const Bench& bench;
  Partner* partner;  // nullptr: alone
  Order order;
};

// One shared object; `mine` and `theirs` are how the two threads see it.
template <class Mine, class Theirs>
Variant Access(const Setting& setting, std::string name, std::shared_ptr<Mine> mine,
               std::shared_ptr<Theirs> theirs) {
  const uint64_t accesses = setting.bench.Operations(kAccesses);
  Partner* partner = setting.partner;
  const Order order = setting.order;
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                const auto measure = [&] {
                  turn.Time(accesses, [&] { ReadLoop(*mine, accesses, order); });
                };
                if (partner == nullptr) return measure();
                const Partner::Work work(*partner,
                                         [&] { ReadLoop(*theirs, kAccessesOfAStep, order); });
                const uint64_t before = work.steps();
                measure();
                if (work.steps() == before) turn.Discard();
              },
          .goal = {}};
}

template <class Protected>
Variant Access(const Setting& setting, std::string name) {
  auto word = std::make_shared<Protected>();
  return Access(setting, std::move(name), word, word);
}

struct SharedCache {
  static constexpr uint64_t kOtherPage = 5;
  ResidentVm vm{16};
  Reader reader{vm.mmu().readers()};
  Reader partners_reader{vm.mmu().readers()};
  PfnCache cache{vm.mmu(), "bench"};

  SharedCache() {
    const absl::Status active = cache.Activate(reader, Gpa{kPageSize}, 8, Access::kRead);
    UNDERFOOT_CHECK(active.ok(), "a benchmark's cache was refused", active.raw_code(), 0);
  }
  ~SharedCache() { cache.Deactivate(); }
  SharedCache(const SharedCache&) = delete;
  SharedCache& operator=(const SharedCache&) = delete;

  // What a Begin does that finds something on another page: no reader has a bias afterwards.
  void LookAtReaders() { vm.mmu().readers().WaitForReaders(vm.PageAt(kOtherPage)); }
};

static_assert(kAccesses < ReaderBias::kWindow, "a turn must not end in another phase");

// Whether invalidations have looked at the readers lately: a reader's section costs more then.
enum class Phase { kQuiet, kInvalidations };

Variant CacheAccess(const Setting& setting, SharedCache& shared, Phase phase, std::string name) {
  const auto mine = std::make_shared<CachedWord>(shared.cache, shared.reader);
  const auto theirs = std::make_shared<CachedWord>(shared.cache, shared.partners_reader);
  Variant variant = Access(setting, std::move(name), mine, theirs);
  variant.run = [=, &shared, timed = std::move(variant.run)](Turn& turn) {
    if (phase == Phase::kInvalidations) {
      shared.LookAtReaders();
    } else {
      for (const auto& word : {mine, theirs}) {
        ReadLoop(*word, 2 * ReaderBias::kWindow, Order::kOverlapping);
      }
    }
    timed(turn);
  };
  variant.goal = {.of = Goal::Of::kRatio, .at_most = 2.5};
  return variant;
}

Comparison AccessUnderEach(const Setting& setting, SharedCache& shared, std::string name,
                           std::string what) {
  Comparison comparison{
      .name = std::move(name),
      .what = std::move(what),
      .variants = {
          Access<BareWord>(setting, "bare checked load"),
          CacheAccess(setting, shared, Phase::kQuiet, "pfn cache: check, load, leave"),
          CacheAccess(setting, shared, Phase::kInvalidations, "the same, among invalidations"),
          Access(setting, "slot with exchange, nothing else", std::make_shared<SlotWord>(),
                 std::make_shared<SlotWord>()),
          Access(setting, "even/odd counter", std::make_shared<EvenOddWord>(),
                 std::make_shared<EvenOddWord>()),
          Access(setting, "slot, asymmetric (membarrier)", std::make_shared<AsymmetricWord>(),
                 std::make_shared<AsymmetricWord>()),
          Access<SeqlockWord>(setting, "seqlock (protects nothing)"),
          Access<RcuWord>(setting, "RCU, memb"), Access<QsbrWord>(setting, "RCU, qsbr"),
          Access(setting, "rwlock of each reader", std::make_shared<LockedWord<SpinRwLock>>(),
                 std::make_shared<LockedWord<SpinRwLock>>()),
          Access<LockedWord<SpinRwLock>>(setting, "spinning rwlock"),
          Access<LockedWord<std::shared_mutex>>(setting, "std::shared_mutex"),
          Access<LockedWord<AbslRwLock>>(setting, "absl::Mutex")}};
  if (SrcuRseq::UnavailableReason().empty()) {
    comparison.variants.push_back(Access<SrcuRseqWord>(setting, "SRCU-like, rseq"));
  }
  return comparison;
}

}  // namespace

void BenchCacheAccess(Bench& bench) {
  constexpr char kTwo[] = "cache.access.two_threads";
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus.front());
  SharedCache shared;
  if (const std::string reason = SrcuRseq::UnavailableReason(); !reason.empty()) {
    bench.Skip("cache.access, SRCU-like with rseq", reason);
  }
  bench.Compare(
      AccessUnderEach({bench, nullptr, Order::kDependent}, shared, "cache.access.alone",
                      "an access to a word of guest memory that tells where the next is"));
  bench.Compare(AccessUnderEach({bench, nullptr, Order::kOverlapping}, shared,
                                "cache.access.overlapping",
                                "the same when the next access need not wait for this one"));
  if (cpus.size() < 2) return bench.Skip(kTwo, "it takes two CPUs");
  Partner partner(cpus[1]);
  bench.Compare(AccessUnderEach({bench, &partner, Order::kDependent}, shared, kTwo,
                                "as alone, while another thread reads the same word"));
}

}  // namespace underfoot::bench
