// The first write of a guest to each page of its memory with huge pages of the host: in turn and
// scattered, from nothing and from a file that has the content; against pages of 4 KiB, the kernel's
// own demand paging, and the bare ioctl for each block.

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/raw_huge_pages.h"
#include "tests/bench/cpus.h"
#include "tests/bench/stopwatch.h"
#include "tests/bench/touched_ram.h"

namespace underfoot::bench {
namespace {

using How = RawHugePages::How;

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

absl::StatusOr<std::shared_ptr<RawHugePages>> Raw(How how, int cpu, HostChanges* host) {
  if (how == How::kContinued) {
    if (absl::Status has =
            HugePageHost().Provide(HugePages::k2M, Backing::kMemfd, kPages * kPageSize, host);
        !has.ok()) {
      return has;
    }
  }
  return RawHugePages::Create(how, kPages, cpu);
}

struct InTurn {
  std::string name;
  Backing backing = Backing::kAnon;
  Left left = Left::kNothing;
};

void CompareInTurn(Bench& bench, const InTurn& c, int cpu, HostChanges* host) {
  if (!bench.Wants(c.name)) return;
  const auto ours = [&](uint64_t around, HugePages huge) {
    return MonitoredRam::Create({.backing = c.backing,
                                 .left = c.left,
                                 .around = around,
                                 .handlers = FaultHandlersForThisHost(),
                                 .huge = huge,
                                 .host = host});
  };
  // Of private memory the huge page that is moved in has been cleared ahead. Of a memfd the pages are
  // in the file: nothing is copied.
  const bool moved = c.backing == Backing::kAnon;
  const bool continued = c.left == Left::kContent;
  std::vector<absl::StatusOr<Variant>> variants;
  const auto add = [&](std::string name, auto ram, std::optional<Goal> goal = {}) {
    variants.push_back(Touched(std::move(name), std::move(ram), goal, {.pin = true}));
  };
  add("the kernel's own, 4 KiB", PlainRam::Create(c.backing, c.left));
  add("the kernel's own, THP", PlainRam::Create(c.backing, c.left, HugePages::kThp));
  if (moved) add("read and UFFDIO_MOVE of 2 MiB", Raw(How::kMoved, cpu, host));
  if (continued) add("read and UFFDIO_CONTINUE of 2 MiB", Raw(How::kContinued, cpu, host));
  add("ours, --fault-around 1", ours(1, HugePages::kOff));
  add("ours, --fault-around 64", ours(64, HugePages::kOff));
  add("ours, --huge-pages thp", ours(64, HugePages::kThp),
      moved ? std::optional(AtMost(0.15)) : std::nullopt);
  add("ours, --huge-pages 2M", ours(64, HugePages::k2M),
      continued ? std::optional(AtMost(0.05)) : std::nullopt);
  CompareHuge(bench,
              {.name = c.name,
               .what = "a guest's first write to a page, one page after the other",
               .variants = {}},
              std::move(variants));
}

// One fault brings in 512 of the pages that a scattered guest will touch.
void CompareScattered(Bench& bench, const std::string& name, Backing backing, HostChanges* host) {
  if (!bench.Wants(name)) return;
  const auto ours = [&](const char* what, HugePages huge, std::optional<Goal> goal) {
    return Touched(what,
                   MonitoredRam::Create({.backing = backing,
                                         .around = 64,
                                         .handlers = FaultHandlersForThisHost(),
                                         .huge = huge,
                                         .host = host}),
                   goal, {.stride = kScattered, .pin = true});
  };
  CompareHuge(bench,
              {.name = name,
               .what = "a guest's first write to a page, scattered over 16 MiB",
               .variants = {}},
              {ours("ours, 4 KiB", HugePages::kOff, {}),
               ours("ours, --huge-pages thp", HugePages::kThp, AtMost(0.125)),
               ours("ours, --huge-pages 2M", HugePages::k2M, AtMost(0.125))});
}

// What users of snapshot restore publish: the content is in a file that is in memory, and two vCPUs
// touch all of it.
void CompareFile(Bench& bench, const std::string& name, unsigned handlers, HostChanges* host) {
  if (!bench.Wants(name)) return;
  constexpr uint64_t kGibibyte = (uint64_t{1} << 30) >> kPageShift;
  const uint64_t pages = bench.smoke() ? kPages : bench.quick() ? kGibibyte / 16 : kGibibyte;
  const auto ours = [&](const char* what, uint64_t around, HugePages huge) {
    return Touching(what,
                    MonitoredRam::Create({.backing = Backing::kMemfd,
                                          .left = Left::kContent,
                                          .around = around,
                                          .handlers = handlers,
                                          .huge = huge,
                                          .pages = pages,
                                          .host = host}),
                    pages, {.vcpus = 2});
  };
  CompareHuge(bench,
              {.name = name,
               .what = "a guest with 2 vCPUs touches memory whose content is in a file in memory",
               .variants = {},
               .rounds = 4,
               .unit = "pages/s"},
              {ours("4 KiB, --fault-around 1", 1, HugePages::kOff),
               ours("4 KiB, --fault-around 64", 64, HugePages::kOff),
               ours("4 KiB, --fault-around 512", 512, HugePages::kOff),
               ours("--huge-pages 2M", 64, HugePages::k2M)});
}

// vCPUs x handlers x what one fault brings in. A fault of one page of hugetlb memory brings in 2 MiB.
void CompareGrid(Bench& bench, const std::string& name, const TouchingGuest::Options& guest,
                 HostChanges* host) {
  if (!bench.Wants(name)) return;
  struct Bringing {
    const char* name;
    uint64_t around;
    HugePages huge;
  };
  std::vector<absl::StatusOr<Variant>> variants;
  for (const unsigned handlers : {1u, 2u, 4u}) {
    if (handlers > FaultHandlersForThisHost()) break;
    for (const Bringing& each :
         std::initializer_list<Bringing>{{"4 KiB", 1, HugePages::kOff},
                                         {"--fault-around 64", 64, HugePages::kOff},
                                         {"--huge-pages 2M", 64, HugePages::k2M}}) {
      variants.push_back(Touching(
          absl::StrCat(each.name, ", ", handlers, handlers == 1 ? " handler" : " handlers"),
          MonitoredRam::Create({.backing = Backing::kMemfd,
                                .around = each.around,
                                .handlers = handlers,
                                .huge = each.huge,
                                .host = host}),
          kPages, guest));
    }
  }
  CompareHuge(bench,
              {.name = name,
               .what = absl::StrCat("pages a second that ", guest.vcpus,
                                    guest.vcpus == 1 ? " vCPU touches" : " vCPUs touch",
                                    guest.stride == 1 ? ", in turn" : ", scattered"),
               .variants = {},
               .rounds = 6,
               .unit = "pages/s"},
              std::move(variants));
}

// Huge pages are reserved by it, and put back when it goes. nullptr: the host stays as it is.
std::unique_ptr<HostChanges> TakeHostChanges(Bench& bench) {
  if (!bench.may_change_host()) return nullptr;
  absl::StatusOr<std::unique_ptr<HostChanges>> changes =
      HostChanges::Take([](std::string_view line) { std::cerr << line << "\n"; });
  if (changes.ok()) return *std::move(changes);
  bench.Skip("fault.huge.*, --huge-pages 2M", std::string(changes.status().message()));
  return nullptr;
}

}  // namespace

void BenchHugeFault(Bench& bench) {
  const std::unique_ptr<HostChanges> changes = TakeHostChanges(bench);
  HostChanges* const host = changes.get();
  const std::vector<int>& cpus = AllowedCpus();
  for (const InTurn& c : std::array<InTurn, 3>{
           {{.name = "fault.huge.anon"},
            {.name = "fault.huge.memfd", .backing = Backing::kMemfd},
            {.name = "fault.huge.file", .backing = Backing::kMemfd, .left = Left::kContent}}}) {
    CompareInTurn(bench, c, cpus[0], host);
  }
  CompareScattered(bench, "fault.huge.scattered.anon", Backing::kAnon, host);
  CompareScattered(bench, "fault.huge.scattered.memfd", Backing::kMemfd, host);
  if (cpus.size() < 2) return bench.Skip("fault.huge.touch_1_GiB.*", "it takes two CPUs");
  const unsigned only = bench.smoke() ? 4 : bench.quick() ? 2 : 0;  // 0: each
  for (const unsigned vcpus : {1u, 2u, 4u}) {
    if (only != 0 && vcpus != only) continue;
    const std::string of = absl::StrCat(".", vcpus, vcpus == 1 ? "_vcpu" : "_vcpus");
    CompareGrid(bench, "fault.grid.sequential" + of, {.vcpus = vcpus}, host);
    CompareGrid(bench, "fault.grid.random" + of, {.vcpus = vcpus, .stride = kScattered}, host);
  }
  CompareFile(bench, "fault.huge.touch_1_GiB.1_handler", 1, host);
  CompareFile(bench, "fault.huge.touch_1_GiB.2_handlers", 2, host);
}

}  // namespace underfoot::bench
