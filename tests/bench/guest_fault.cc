// The first write of a guest to each page of its memory, in turn or scattered: through our handlers
// and fault path, with and without fault-around, against the kernel's own demand paging of the same
// guest; one handler for all CPUs against one for each; and small pages against huge ones.

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "mmu/base/check.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/touching_guest.h"
#include "vmm/base/unique_fd.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/host/huge_page_host.h"
#include "vmm/ram/aligned_mapping.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kRamBytes = uint64_t{64} << 20;
constexpr uint64_t kPages = 4096;
constexpr uint64_t kScattered = 1221;  // no two faults follow one another

// What a memfd still has of pages that are not mapped.
enum class Left : uint8_t { kNothing, kContent };

// RAM without a monitor: the kernel's own demand paging.
class PlainRam {
 public:
  static absl::StatusOr<std::shared_ptr<PlainRam>> Create(Backing backing, Left left,
                                                          HugePages huge = HugePages::kOff) {
    auto self = std::make_shared<PlainRam>();
    self->left_ = left;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (backing == Backing::kMemfd) {
      self->fd_ = UniqueFd(memfd_create("bench", MFD_CLOEXEC));
      if (!self->fd_.valid() || ftruncate(self->fd_.get(), kPages * kPageSize) != 0) {
        return absl::ErrnoToStatus(errno, "memfd_create");
      }
      flags = MAP_SHARED;
    }
    void* const base = MapAligned(kPages * kPageSize, kBlockBytes, flags, self->fd_.get());
    if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap");
    const int advice = huge == HugePages::kThp ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    static_cast<void>(madvise(base, kPages * kPageSize, advice));  // a hint
    self->range_ = PageRangeOf(HvaOf(base), kPages);
    return self;
  }
  PlainRam() = default;
  ~PlainRam() { munmap(PointerOf(range_.begin), range_.size()); }
  PlainRam(const PlainRam&) = delete;
  PlainRam& operator=(const PlainRam&) = delete;

  HvaRange range() const { return range_; }
  void Empty() const {
    const int advice = fd_.valid() && left_ == Left::kNothing ? MADV_REMOVE : MADV_DONTNEED;
    const int result = madvise(PointerOf(range_.begin), range_.size(), advice);
    UNDERFOOT_CHECK(result == 0, "plain memory cannot be emptied", range_.begin.value, errno);
  }

 private:
  UniqueFd fd_;
  Left left_ = Left::kNothing;
  HvaRange range_ = {};
};

// RAM as the machine keeps it.
class MonitoredRam {
 public:
  static absl::StatusOr<std::shared_ptr<MonitoredRam>> Create(Backing backing, Left left,
                                                              uint64_t around,
                                                              std::optional<int> cpu,
                                                              unsigned handlers = 1,
                                                              HugePages huge = HugePages::kOff) {
    if (absl::Status has = HugePageHost().Provide(huge, backing, kRamBytes, nullptr); !has.ok()) {
      return has;
    }
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram =
        CoherentRam::Create({.bytes = kRamBytes,
                             .backing = backing,
                             .huge_pages = huge,
                             .fault_around = around,
                             .fault_handlers = handlers});
    if (!ram.ok()) return std::move(ram).status();
    std::shared_ptr<MonitoredRam> self(new MonitoredRam(*std::move(ram), left));
    const Gfn first = GfnOf(self->ram_->memory().slots()[2].gpa);
    const absl::Status slot = self->ram_->mmu().CreateMemslot(
        {.id = 0, .gfns = {first, first + kPages}, .hva = self->range().begin});
    if (!slot.ok()) return slot;
    std::optional<Pinned> pinned;
    if (cpu.has_value()) pinned.emplace(*cpu);  // the monitor's thread takes it over
    if (absl::Status started = self->ram_->Start(); !started.ok()) return started;
    return self;
  }
  MonitoredRam(const MonitoredRam&) = delete;
  MonitoredRam& operator=(const MonitoredRam&) = delete;

  HvaRange range() const { return PageRangeOf(ram_->memory().slots()[2].hva, kPages); }
  void Empty() {
    if (left_ == Left::kContent) {
      const absl::Status zapped = hooked::Madvise(range(), MADV_DONTNEED);
      UNDERFOOT_CHECK(zapped.ok(), "a hooked zap failed", range().begin.value, zapped.raw_code());
      return;
    }
    for (uint64_t page = 0; page < kPages; page += kAtOnce) {
      const absl::StatusOr<uint64_t> gone =
          ram_->hooks().Discard(PageRangeOf(range().begin + page * kPageSize, kAtOnce));
      UNDERFOOT_CHECK(gone.ok(), "a hooked discard failed", page, gone.status().raw_code());
    }
  }

 private:
  static constexpr uint64_t kAtOnce = kBlockBytes >> kPageShift;

  MonitoredRam(std::unique_ptr<CoherentRam> ram, Left left) : ram_(std::move(ram)), left_(left) {}

  const std::unique_ptr<CoherentRam> ram_;
  const Left left_;
};

// A guest that touches `made`; `turn` is called with both, once for each turn.
template <class Ram, class OneTurn>
absl::StatusOr<Variant> WithGuest(std::string name, absl::StatusOr<std::shared_ptr<Ram>> made,
                                  const TouchingGuest::Options& options, std::optional<Goal> goal,
                                  OneTurn one_turn) {
  if (!made.ok()) return std::move(made).status();
  const std::shared_ptr<Ram> ram = *std::move(made);
  absl::StatusOr<std::unique_ptr<TouchingGuest>> guest =
      TouchingGuest::Create(ram->range(), options);
  if (!guest.ok()) return std::move(guest).status();
  // The guest goes first: its VM maps the memory.
  struct Both {
    std::shared_ptr<Ram> ram;
    std::unique_ptr<TouchingGuest> guest;
  };
  auto both = std::make_shared<Both>(Both{ram, *std::move(guest)});
  return Variant{.name = std::move(name),
                 .run = [both, one_turn](Turn& turn) { one_turn(*both->ram, *both->guest, turn); },
                 .goal = goal};
}

template <class Ram>
absl::StatusOr<Variant> Touched(std::string name, absl::StatusOr<std::shared_ptr<Ram>> made,
                                std::optional<Goal> goal = {},
                                const TouchingGuest::Options& options = {}) {
  return WithGuest(std::move(name), std::move(made), options, goal,
                   [](Ram& ram, TouchingGuest& guest, Turn& turn) {
                     ram.Empty();
                     turn.Time(kPages, [&] { guest.TouchAll(); });
                   });
}

void Compare(Bench& bench, std::string name, Backing backing, Left left, int cpu, double goal) {
  if (!bench.Wants(name)) return;
  Comparison comparison{.name = std::move(name),
                        .what = "a guest's first write to a page, one page after the other",
                        .variants = {}};
  for (absl::StatusOr<Variant>& made : std::array{
           Touched("the kernel's own, not registered", PlainRam::Create(backing, left)),
           Touched("our monitor, --fault-around 1", MonitoredRam::Create(backing, left, 1, cpu)),
           Touched("our monitor, --fault-around 64", MonitoredRam::Create(backing, left, 64, cpu),
                   Goal{.of = Goal::Of::kRatio, .at_most = goal}),
           Touched("our monitor, --fault-around 512",
                   MonitoredRam::Create(backing, left, 512, cpu))}) {
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

absl::StatusOr<Variant> Handled(const HandlersCase& c, std::string name, unsigned handlers,
                                std::optional<Goal> goal) {
  return WithGuest(
      std::move(name),
      MonitoredRam::Create(c.backing, Left::kNothing, c.around, std::nullopt, handlers), c.guest,
      goal, [c](MonitoredRam& ram, TouchingGuest& guest, Turn& turn) {
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
  for (absl::StatusOr<Variant>& made :
       std::array{Handled(c, "one handler, raised, on any CPU", 1, {}),
                  Handled(c, "one handler for each CPU", FaultHandlersForThisHost(), goal)}) {
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

// Each variant may be missing: this host need not have huge pages.
void CompareHuge(Bench& bench, Comparison comparison,
                 std::vector<absl::StatusOr<Variant>> variants) {
  for (absl::StatusOr<Variant>& made : variants) {
    if (made.ok()) {
      comparison.variants.push_back(*std::move(made));
    } else {
      bench.Skip(comparison.name, std::string(made.status().message()));
    }
  }
  if (comparison.variants.size() > 1) bench.Compare(std::move(comparison));
}

constexpr Goal AtMost(double ratio) { return {.of = Goal::Of::kRatio, .at_most = ratio}; }

void CompareHugeInTurn(Bench& bench, const std::string& name, Backing backing, Left left, int cpu) {
  if (!bench.Wants(name)) return;
  const auto ours = [&](uint64_t around, HugePages huge) {
    return MonitoredRam::Create(backing, left, around, cpu, 1, huge);
  };
  // Of private memory the huge page that is moved in has been cleared ahead. Of a memfd the pages are
  // in the file: nothing is copied.
  const auto thp = backing == Backing::kAnon ? std::optional(AtMost(0.15)) : std::nullopt;
  const auto hugetlb = left == Left::kContent ? std::optional(AtMost(0.05)) : std::nullopt;
  CompareHuge(bench,
              {.name = name,
               .what = "a guest's first write to a page, one page after the other",
               .variants = {}},
              {Touched("the kernel's own, 4 KiB", PlainRam::Create(backing, left)),
               Touched("the kernel's own, THP", PlainRam::Create(backing, left, HugePages::kThp)),
               Touched("ours, --fault-around 1", ours(1, HugePages::kOff)),
               Touched("ours, --fault-around 64", ours(64, HugePages::kOff)),
               Touched("ours, --huge-pages thp", ours(64, HugePages::kThp), thp),
               Touched("ours, --huge-pages 2M", ours(64, HugePages::k2M), hugetlb)});
}

// One fault brings in 512 of the pages that a scattered guest will touch.
void CompareHugeScattered(Bench& bench, const std::string& name, Backing backing, int cpu) {
  if (!bench.Wants(name)) return;
  const auto ours = [&](const char* what, HugePages huge, std::optional<Goal> goal) {
    return Touched(what, MonitoredRam::Create(backing, Left::kNothing, 64, cpu, 1, huge), goal,
                   {.stride = kScattered});
  };
  CompareHuge(bench,
              {.name = name,
               .what = "a guest's first write to a page, scattered over 16 MiB",
               .variants = {}},
              {ours("ours, 4 KiB", HugePages::kOff, {}),
               ours("ours, --huge-pages thp", HugePages::kThp, AtMost(0.125)),
               ours("ours, --huge-pages 2M", HugePages::k2M, AtMost(0.125))});
}

}  // namespace

void BenchGuestFault(Bench& bench) {
  const std::vector<int>& cpus = AllowedCpus();
  if (cpus.size() < 2) bench.Skip("fault.handlers.*", "it takes two CPUs");
  if (cpus.size() >= 2) CompareNumbersOfHandlers(bench);
  const Pinned pinned(cpus[0]);
  const auto compare = [&](const std::string& where, int cpu) {
    const std::string group = "fault.sequential.";
    Compare(bench, group + "anon." + where, Backing::kAnon, Left::kNothing, cpu, 0.5);
    Compare(bench, group + "memfd." + where, Backing::kMemfd, Left::kNothing, cpu, 0.3);
    Compare(bench, group + "memfd_zapped." + where, Backing::kMemfd, Left::kContent, cpu, 0.3);
  };
  compare("handler_on_this_cpu", cpus[0]);
  CompareHugeInTurn(bench, "fault.huge.anon", Backing::kAnon, Left::kNothing, cpus[0]);
  CompareHugeInTurn(bench, "fault.huge.memfd", Backing::kMemfd, Left::kNothing, cpus[0]);
  CompareHugeInTurn(bench, "fault.huge.file", Backing::kMemfd, Left::kContent, cpus[0]);
  CompareHugeScattered(bench, "fault.huge.scattered.anon", Backing::kAnon, cpus[0]);
  CompareHugeScattered(bench, "fault.huge.scattered.memfd", Backing::kMemfd, cpus[0]);
  if (cpus.size() < 2) return bench.Skip("fault.sequential.*_other_cpu", "it takes two CPUs");
  compare("handler_on_the_other_cpu", cpus[1]);
}

}  // namespace underfoot::bench
