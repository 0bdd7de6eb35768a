// What it costs that userfaultfd's REMOVE is asynchronous: the event is read before the pages go, and
// nothing says when they have gone.
//
//   lost copies   a page that is copied in after the event was read and before the pages go is zapped
//                 with them, under a translation that was made meanwhile. Here each page is absent,
//                 and another thread touches it while it is removed once more, so as many are lost as
//                 can be. Settling keeps no translation of such a page
//   EAGAIN        from the event until the removing thread has gone on, no page can be copied in
//   faults        of other pages wait for the reads of events and for the end of EAGAIN
//
// A synchronous REMOVE does not exist. It is emulated by our own hooks without events: Begin, the
// call, End. The floor of all three figures is therefore that of the last variant.

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/raw_uffd.h"
#include "tests/bench/cpus.h"
#include "tests/bench/pace.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kRamBytes = uint64_t{64} << 20;
constexpr uint64_t kRemovedPages = 64;
constexpr uint64_t kFaultedPages = 256;
constexpr uint64_t kRemovals = 500;         // that a touch meets, in a turn
constexpr uint64_t kPairsPerSecond = 1000;  // a removal before, and one that a touch meets
constexpr uint64_t kEagainRemovals = 200;

enum class Remove : uint8_t { kByEvent, kByHook };

// Guest RAM with a monitor. Pages [0, kRemovedPages) are removed by another thread.
class RemovedRam {
 public:
  static absl::StatusOr<std::shared_ptr<RemovedRam>> Create(Remove remove, absl::Duration settling,
                                                            int monitor_cpu) {
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram = CoherentRam::Create(
        {.bytes = kRamBytes,
         .uffd = {.events =
                      remove == Remove::kByEvent ? UffdEvents::kAll : UffdEvents::kNoRemovals},
         .removal_bound = settling});
    if (!ram.ok()) return std::move(ram).status();
    std::shared_ptr<RemovedRam> self(new RemovedRam(*std::move(ram), remove));
    const Gfn first = GfnOf(self->ram_->memory().slots()[2].gpa);
    constexpr uint64_t kPages = kRemovedPages + kFaultedPages;
    const absl::Status slot = self->ram_->mmu().CreateMemslot(
        {.id = 0, .gfns = {first, first + kPages}, .hva = self->Page(0).begin});
    if (!slot.ok()) return slot;
    const Pinned pinned(monitor_cpu);  // the monitor's thread takes it over
    if (absl::Status started = self->ram_->Start(); !started.ok()) return started;
    return self;
  }
  RemovedRam(const RemovedRam&) = delete;
  RemovedRam& operator=(const RemovedRam&) = delete;

  void Touch(uint64_t page) {
    std::atomic_ref(*static_cast<uint64_t*>(PointerOf(Page(page).begin))).store(1, kRelaxed);
  }
  // As a thread that our hooks do not see, or through them.
  void Discard(uint64_t page) {
    if (remove_ == Remove::kByEvent) return bench::Discard(Page(page));
    DiscardByHook(Page(page));
  }
  void EmptyFaultedPages() {
    DiscardByHook({Page(kRemovedPages).begin, Page(kRemovedPages + kFaultedPages).begin});
  }
  UffdStats Stats() const { return ram_->monitor().Stats(); }

 private:
  RemovedRam(std::unique_ptr<CoherentRam> ram, Remove remove)
      : ram_(std::move(ram)), remove_(remove) {}
  HvaRange Page(uint64_t page) const {
    return PageRangeOf(ram_->memory().slots()[2].hva + page * kPageSize);
  }
  static void DiscardByHook(HvaRange range) {
    const absl::Status gone = hooked::Madvise(range, MADV_DONTNEED);
    UNDERFOOT_CHECK(gone.ok(), "a hooked discard failed", range.begin.value, gone.raw_code());
  }

  const std::unique_ptr<CoherentRam> ram_;
  const Remove remove_;
};

// A thread on `cpu` that removes one page after the other, at random.
class Remover {
 public:
  Remover(RemovedRam& ram, int cpu, uint64_t seed) : ram_(ram) {
    thread_ = std::thread([this, cpu, seed] { Main(cpu, seed); });
  }
  ~Remover() {
    stop_.store(true, kRelaxed);
    thread_.join();
  }
  Remover(const Remover&) = delete;
  Remover& operator=(const Remover&) = delete;

  uint64_t removed() const { return removed_.load(kRelaxed); }
  // The page that goes now, or went last.
  uint64_t page() const { return page_.load(kRelaxed); }

 private:
  void Main(int cpu, uint64_t seed) {
    const Pinned pinned(cpu);
    std::mt19937_64 numbers(seed);
    Pace pace(kPairsPerSecond);
    while (!stop_.load(kRelaxed)) {
      pace.AwaitNext();
      const uint64_t page = numbers() % kRemovedPages;
      ram_.Discard(page);  // absent: a touch from now on copies it in
      page_.store(page, kRelaxed);
      ram_.Discard(page);
      removed_.fetch_add(1, kRelaxed);
    }
  }

  RemovedRam& ram_;
  // Relaxed: hints and counts; the page itself is what the threads meet at.
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> page_{0};
  std::atomic<uint64_t> removed_{0};
  std::thread thread_;
};

struct Rule {
  std::string name;
  Remove remove = Remove::kByEvent;
  absl::Duration settling = absl::ZeroDuration();
};

std::vector<Rule> Rules() {
  return {{"REMOVE by event, settling", Remove::kByEvent, absl::Milliseconds(100)},
          {"REMOVE by event, no settling", Remove::kByEvent, absl::ZeroDuration()},
          {"synchronous, emulated by our hooks", Remove::kByHook, absl::ZeroDuration()}};
}

Variant LostCopies(const Bench& bench, std::string name, std::shared_ptr<RemovedRam> ram, int cpu) {
  return {.name = std::move(name),
          .run =
              [ram, cpu, n = bench.Operations(kRemovals), seed = bench.seed()](Turn& turn) {
                const uint64_t lost = ram->Stats().lost_copies_repaired;
                Remover remover(*ram, cpu, seed);
                while (remover.removed() < n) ram->Touch(remover.page());
                const uint64_t removed = remover.removed();
                turn.Record(static_cast<double>(ram->Stats().lost_copies_repaired - lost) * 1e6 /
                            static_cast<double>(removed));
              },
          .goal = {}};
}

Variant Faults(std::string name, std::shared_ptr<RemovedRam> ram, int cpu, uint64_t seed,
               bool beside) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                ram->EmptyFaultedPages();
                std::unique_ptr<Remover> remover;
                if (beside) remover = std::make_unique<Remover>(*ram, cpu, seed);
                for (uint64_t i = 0; i < kFaultedPages; ++i) {
                  turn.Time(1, [&] { ram->Touch(kRemovedPages + i); });
                }
              },
          .goal = {}};
}

// Calls a function on a thread of its own, on another CPU.
class Caller {
 public:
  Caller(int cpu, std::function<void(uint64_t call)> function)
      : thread_([this, cpu, function = std::move(function)] {
          const Pinned pinned(cpu);
          for (uint64_t done = 0;;) {
            while (asked_.load(kAcquire) == done) CpuRelax();
            if (stop_.load(kRelaxed)) return;
            function(done);
            done_.store(++done, kRelease);
          }
        }) {}
  ~Caller() {
    stop_.store(true, kRelaxed);
    Ask();
    thread_.join();
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  void Ask() { asked_.fetch_add(1, kRelease); }
  bool Done() const { return done_.load(kAcquire) == asked_.load(kRelaxed); }

 private:
  std::atomic<uint64_t> asked_{0};
  std::atomic<uint64_t> done_{0};
  std::atomic<bool> stop_{false};  // published by asked_
  std::thread thread_;
};

// For each removal, how long copies were refused.
Variant Eagain(const Bench& bench, std::string name, std::shared_ptr<RawUffdMemory> memory,
               int cpu) {
  return {.name = std::move(name),
          .run =
              [memory, cpu, n = bench.Operations(kEagainRemovals)](Turn& turn) {
                static_cast<void>(memory->CopyZeroes(0));
                Caller remover(cpu, [&](uint64_t) { Discard(memory->memory().Pages(1, 1)); });
                for (uint64_t i = 0; i < n; ++i) {
                  double refused_ns = 0;
                  remover.Ask();
                  for (bool done = false; !done;) {
                    done = remover.Done();  // then no event is pending any more
                    const Stopwatch watch;
                    if (memory->RefusesCopies(0)) refused_ns += watch.ElapsedNs();
                  }
                  turn.Record(refused_ns);
                }
              },
          .goal = {}};
}

void CompareEagain(Bench& bench, int here, int elsewhere) {
  constexpr char kName[] = "discard.eagain";
  if (!bench.Wants(kName)) return;
  Comparison comparison{.name = kName,
                        .what = "the time for which a removal of one page refuses all copies",
                        .variants = {}};
  using Events = RawUffdMemory::Events;
  for (const auto& [name, events] :
       {std::pair{"REMOVE by event, read at once", Events::kRemovalsToo},
        std::pair{"no event, as with a synchronous REMOVE", Events::kFaultsOnly}}) {
    absl::StatusOr<std::unique_ptr<RawUffdMemory>> made = RawUffdMemory::Create(2, events);
    if (!made.ok()) return bench.Skip(kName, std::string(made.status().message()));
    const std::shared_ptr<RawUffdMemory> memory = *std::move(made);
    // The remover sleeps until its event is read, so its CPU is free.
    memory->Serve(elsewhere);
    comparison.variants.push_back(Eagain(bench, name, memory, elsewhere));
  }
  const Pinned pinned(here);
  bench.Compare(std::move(comparison));
}

}  // namespace

void BenchRemovals(Bench& bench) {
  constexpr char kLost[] = "discard.lost_copies";
  constexpr char kFaults[] = "discard.fault_beside_removals";
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) return bench.Skip(kLost, "it takes two CPUs");
  CompareEagain(bench, cpus[0], cpus[1]);
  if (!bench.Wants(kLost) && !bench.Wants(kFaults)) return;
  Comparison lost{.name = kLost,
                  .what = "lost copies in 10^6 removals of a page that a thread touches meanwhile",
                  .variants = {},
                  .rounds = 12,
                  .unit = "copies"};
  Comparison faults{.name = kFaults,
                    .what = "a write to an absent page, each, beside 2000 removals/s of others",
                    .variants = {}};
  for (const Rule& rule : Rules()) {
    absl::StatusOr<std::shared_ptr<RemovedRam>> ram =
        RemovedRam::Create(rule.remove, rule.settling, cpus[0]);
    if (!ram.ok()) return bench.Skip(kLost, std::string(ram.status().message()));
    lost.variants.push_back(LostCopies(bench, rule.name, *ram, cpus[1]));
    if (faults.variants.empty()) {
      faults.variants.push_back(Faults("no removals", *ram, cpus[1], bench.seed(), false));
    }
    faults.variants.push_back(Faults(rule.name, *ram, cpus[1], bench.seed(), true));
  }
  const Pinned pinned(cpus[0]);
  bench.Compare(std::move(lost));
  bench.Compare(std::move(faults));
}

}  // namespace underfoot::bench
