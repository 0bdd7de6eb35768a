// The first write of a guest to each page of its memory, in turn or scattered: through our handlers
// and fault path, with and without fault-around, against the kernel's own demand paging of the same
// guest; and one handler for all CPUs against one for each.

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/bench/bench.h"
#include "tests/bench/comparators/raw_uffd.h"
#include "tests/bench/cpus.h"
#include "tests/bench/touched_ram.h"
#include "tests/bench/touching_guest.h"

namespace underfoot::bench {
namespace {

void Compare(Bench& bench, std::string name, Backing backing, Left left, int cpu, double goal) {
  if (!bench.Wants(name)) return;
  const auto ours = [&](uint64_t around) {
    return MonitoredRam::Create({.backing = backing, .left = left, .around = around, .cpu = cpu});
  };
  Comparison comparison{.name = std::move(name),
                        .what = "a guest's first write to a page, one page after the other",
                        .variants = {}};
  for (absl::StatusOr<Variant>& made :
       std::array{Touched("the kernel's own, not registered", PlainRam::Create(backing, left), {},
                          {.pin = true}),
                  Touched("our monitor, --fault-around 1", ours(1), {}, {.pin = true}),
                  Touched("our monitor, --fault-around 64", ours(64),
                          Goal{.of = Goal::Of::kRatio, .at_most = goal}, {.pin = true}),
                  Touched("our monitor, --fault-around 512", ours(512), {}, {.pin = true})}) {
    if (!made.ok()) return bench.Skip(comparison.name, std::string(made.status().message()));
    comparison.variants.push_back(*std::move(made));
  }
  bench.Compare(std::move(comparison));
}

// Threads that use up the rest of each CPU, as other programs of a busy host do.
class BusyCpus {
 public:
  BusyCpus() {
    for (const int cpu : AllowedCpus()) {
      threads_.emplace_back([this, cpu] {
        const Pinned pinned(cpu);
        while (!stop_.load(std::memory_order::relaxed)) {
        }
      });
    }
  }
  ~BusyCpus() {
    stop_.store(true, std::memory_order::relaxed);
    for (std::thread& thread : threads_) thread.join();
  }
  BusyCpus(const BusyCpus&) = delete;
  BusyCpus& operator=(const BusyCpus&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Memory with the bare loops of handlers: what the kernel's part costs, whoever drives it.
class RawRam {
 public:
  // One handler for all CPUs, or one for each.
  static absl::StatusOr<std::shared_ptr<RawRam>> Create(uint64_t window, bool for_each_cpu) {
    absl::StatusOr<std::unique_ptr<RawUffdMemory>> made =
        RawUffdMemory::Create(kPages, RawUffdMemory::Events::kFaultsOnly);
    if (!made.ok()) return std::move(made).status();
    if (!for_each_cpu) (*made)->Serve({}, window);
    for (const int cpu : AllowedCpus()) {
      if (for_each_cpu) (*made)->Serve(cpu, window);
    }
    return std::make_shared<RawRam>(*std::move(made));
  }
  explicit RawRam(std::unique_ptr<RawUffdMemory> memory) : memory_(std::move(memory)) {}

  HvaRange range() const { return memory_->memory().range(); }
  void Empty() const {
    const int result = madvise(PointerOf(range().begin), range().size(), MADV_DONTNEED);
    UNDERFOOT_CHECK(result == 0, "raw memory cannot be emptied", range().begin.value, errno);
  }

 private:
  const std::unique_ptr<RawUffdMemory> memory_;
};

enum class Figure : uint8_t { kMean, kEachWrite };

struct HandlersCase {
  std::string name;
  Backing backing = Backing::kAnon;
  uint64_t around = 1;
  TouchingGuest::Options guest = {};
  Figure figure = Figure::kMean;
  bool busy = false;
  std::optional<double> goal = {};
};

template <class Ram>
absl::StatusOr<Variant> Handled(const HandlersCase& c, std::string name,
                                absl::StatusOr<std::shared_ptr<Ram>> made, bool pin_vcpus,
                                std::optional<Goal> goal) {
  TouchingGuest::Options options = c.guest;
  options.pin = pin_vcpus;
  return WithGuest(std::move(name), std::move(made), options, goal,
                   [c](Ram& ram, TouchingGuest& guest, Turn& turn) {
                     const Pinned first_vcpu(guest.CpusOf(0));
                     ram.Empty();
                     std::optional<BusyCpus> busy;
                     if (c.busy) busy.emplace();
                     if (c.figure == Figure::kMean) {
                       turn.Time(kPages, [&] { guest.TouchAll(); });
                       return;
                     }
                     guest.TouchAll();
                     for (const double ns : guest.WriteNs()) turn.Record(ns);
                   });
}

void CompareHandlers(Bench& bench, const HandlersCase& c) {
  if (!bench.Wants(c.name)) return;
  Comparison comparison{.name = c.name,
                        .what = c.figure == Figure::kMean
                                    ? "a page of a guest's first writes, all vCPUs together"
                                    : "a guest's first write to a page, each by itself",
                        .variants = {},
                        .rounds = c.busy ? 6u : 20u};
  std::optional<Goal> goal;
  if (c.goal.has_value()) goal = Goal{.of = Goal::Of::kRatio, .at_most = *c.goal};
  const auto ours = [&](unsigned handlers) {
    return MonitoredRam::Create({.backing = c.backing, .around = c.around, .handlers = handlers});
  };
  const unsigned each = FaultHandlersForThisHost();
  std::vector<absl::StatusOr<Variant>> variants;
  variants.push_back(Handled(c, "one handler, raised, on any CPU", ours(1), false, {}));
  variants.push_back(Handled(c, "one handler for each CPU", ours(each), false, goal));
  variants.push_back(Handled(c, "one handler for each CPU, --pin-vcpus", ours(each), true, goal));
  if (c.backing == Backing::kAnon) {
    variants.push_back(
        Handled(c, "the bare loop, one handler", RawRam::Create(c.around, false), false, {}));
    variants.push_back(Handled(c, "the bare loop, one handler for each CPU",
                               RawRam::Create(c.around, true), false, {}));
  }
  for (absl::StatusOr<Variant>& made : variants) {
    if (!made.ok()) return bench.Skip(comparison.name, std::string(made.status().message()));
    comparison.variants.push_back(*std::move(made));
  }
  bench.Compare(std::move(comparison));
}

void CompareNumbersOfHandlers(Bench& bench) {
  constexpr TouchingGuest::Options kOne{.vcpus = 1, .stride = kScattered};
  constexpr TouchingGuest::Options kTwo{.vcpus = 2, .stride = kScattered};
  constexpr TouchingGuest::Options kTwoInTurn{.vcpus = 2};
  for (const HandlersCase& c : std::initializer_list<HandlersCase>{
           {.name = "fault.handlers.random.1_vcpu", .guest = kOne, .goal = 1 / 1.3},
           {.name = "fault.handlers.random.2_vcpus", .guest = kTwo, .goal = 1 / 1.35},
           {.name = "fault.handlers.random.2_vcpus.memfd",
           .backing = Backing::kMemfd,
           .guest = kTwo,
           .goal = 1 / 1.35},
           {.name = "fault.handlers.random.2_vcpus.each",
           .guest = kTwo,
           .figure = Figure::kEachWrite},
           {.name = "fault.handlers.windows.2_vcpus",
           .around = 64,
           .guest = kTwoInTurn,
           .goal = 1 / 1.35},
           {.name = "fault.handlers.windows.2_vcpus.memfd",
           .backing = Backing::kMemfd,
           .around = 64,
           .guest = kTwoInTurn,
           .goal = 1 / 1.35},
           {.name = "fault.handlers.busy_host.random.2_vcpus", .guest = kTwo, .busy = true},
           {.name = "fault.handlers.busy_host.windows.2_vcpus",
           .around = 64,
           .guest = kTwoInTurn,
           .busy = true}}) {
    CompareHandlers(bench, c);
  }
}

}  // namespace

void BenchGuestFault(Bench& bench) {
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) bench.Skip("fault.handlers.*", "it takes two CPUs");
  if (cpus.size() >= 2) CompareNumbersOfHandlers(bench);
  const auto compare = [&](const std::string& where, int cpu) {
    const std::string group = "fault.sequential.";
    Compare(bench, group + "anon." + where, Backing::kAnon, Left::kNothing, cpu, 0.5);
    Compare(bench, group + "memfd." + where, Backing::kMemfd, Left::kNothing, cpu, 0.4);
    Compare(bench, group + "memfd_zapped." + where, Backing::kMemfd, Left::kContent, cpu, 0.3);
  };
  compare("handler_on_this_cpu", cpus[0]);
  if (cpus.size() < 2) return bench.Skip("fault.sequential.*_other_cpu", "it takes two CPUs");
  compare("handler_on_the_other_cpu", cpus[1]);
}

}  // namespace underfoot::bench
