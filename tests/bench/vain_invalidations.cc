// How many invalidations are vain? For each kind of churn that one process can make on its own
// memory: the share of the kernel's invalidations whose range has the same frames afterwards as
// before, by /proc/self/pagemap. The cause in the name of a row is that of most of its records, from
// the kernel's call chain.
//
// Figures are counts and do not depend on the load of the machine. The floor is 0 %: no kind has to
// invalidate what it does not change, but mprotect and write-protection must take permissions.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/caused_records.h"
#include "tests/bench/cpus.h"
#include "vmm/kvm/kvm.h"
#include "vmm/ram/pagemap.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 64;
constexpr unsigned kOperations = 8;  // in a turn

struct Scene {
  Scene(Vm machine, Pagemap map) : vm(std::move(machine)), pagemap(std::move(map)) {}

  Vm vm;  // makes KVM listen to the changes of this process
  AnonymousMemory memory{kPages};
  Pagemap pagemap;
  std::unique_ptr<CausedRecords> records;

  void TouchAll() const {
    for (uint64_t page = 0; page < kPages; ++page) memory.Touch(page);
  }
  std::vector<PagemapEntry> Frames() const {
    std::vector<PagemapEntry> entries(kPages);
    pagemap.Read(memory.range(), entries);
    return entries;
  }
};

struct Kind {
  std::string name;
  std::function<void(const Scene&)> prepare;
  std::function<void(const Scene&)> churn;
};

void Advise(const Scene& scene, int advice) {
  const HvaRange range = scene.memory.range();
  // May be refused, as MADV_PAGEOUT without swap space is not and MADV_COLLAPSE may be.
  static_cast<void>(madvise(PointerOf(range.begin), range.size(), advice));
}

void Protect(const Scene& scene, int protection) {
  const HvaRange range = scene.memory.range();
  const int failed = mprotect(PointerOf(range.begin), range.size(), protection);
  UNDERFOOT_CHECK(failed == 0, "a benchmark's mprotect failed", errno, 0);
}

void Fork() {
  const pid_t child = fork();
  UNDERFOOT_CHECK(child >= 0, "a benchmark's fork failed", errno, 0);
  if (child == 0) _exit(0);
  waitpid(child, nullptr, 0);
}

// A page that two processes share is copied only while both have it.
void WriteBesideAChild(const Scene& scene) {
  std::array<int, 2> ends{};
  UNDERFOOT_CHECK(pipe(ends.data()) == 0, "a benchmark's pipe failed", errno, 0);
  const pid_t child = fork();
  UNDERFOOT_CHECK(child >= 0, "a benchmark's fork failed", errno, 0);
  if (child == 0) {
    close(ends[1]);
    char byte = 0;
    static_cast<void>(!read(ends[0], &byte, 1));  // until the parent closes its end
    _exit(0);
  }
  static_cast<void>(scene.records->Take());  // those of the fork itself
  scene.TouchAll();
  close(ends[1]);
  close(ends[0]);
  waitpid(child, nullptr, 0);
}

void ClearRefs() {
  std::ofstream file("/proc/self/clear_refs");
  file << "4";  // the soft-dirty bits
}

std::vector<Kind> Kinds() {
  const auto touched = [](const Scene& scene) { scene.TouchAll(); };
  const auto absent = [](const Scene& scene) { Discard(scene.memory.range()); };
  const auto advise = [](int advice) {
    return [advice](const Scene& scene) { Advise(scene, advice); };
  };
  return {
      {"discard of present pages", touched, advise(MADV_DONTNEED)},
      {"discard of absent pages", absent, advise(MADV_DONTNEED)},
      {"MADV_FREE", touched, advise(MADV_FREE)},
      {"page-out", touched, advise(MADV_PAGEOUT)},
      {"mprotect to read-only", touched, [](const Scene& scene) { Protect(scene, PROT_READ); }},
      {"clear_refs", touched, [](const Scene&) { ClearRefs(); }},
      {"fork", touched, [](const Scene&) { Fork(); }},
      {"writes beside a forked child", touched, WriteBesideAChild},
  };
}

struct Counted {
  double records = 0;
  double vain = 0;
  std::map<std::string, unsigned> causes;
};

bool FramesChanged(const Scene& scene, HvaRange told, const std::vector<PagemapEntry>& before,
                   const std::vector<PagemapEntry>& after) {
  for (uint64_t page = 0; page < kPages; ++page) {
    if (!told.Overlaps(scene.memory.Pages(page, 1))) continue;
    if (before[page].present != after[page].present || before[page].pfn != after[page].pfn ||
        before[page].swapped != after[page].swapped) {
      return true;
    }
  }
  return false;
}

Counted Count(const Scene& scene, const Kind& kind, unsigned operations) {
  Counted counted;
  for (unsigned i = 0; i < operations; ++i) {
    kind.prepare(scene);
    static_cast<void>(scene.records->Take());
    const std::vector<PagemapEntry> before = scene.Frames();
    kind.churn(scene);
    const std::vector<PagemapEntry> after = scene.Frames();
    for (const CausedRecord& record : scene.records->Take()) {
      counted.records += 1;
      ++counted.causes[record.cause];
      if (!FramesChanged(scene, record.range, before, after)) counted.vain += 1;
    }
    Protect(scene, PROT_READ | PROT_WRITE);
  }
  return counted;
}

std::string MostOf(const std::map<std::string, unsigned>& causes) {
  std::string most = "no record";
  unsigned count = 0;
  for (const auto& [cause, records] : causes) {
    if (records > count) most = cause;
    count = std::max(count, records);
  }
  return most;
}

absl::StatusOr<std::shared_ptr<Scene>> Set() {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return std::move(kvm).status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return std::move(vm).status();
  absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  if (!pagemap.ok()) return std::move(pagemap).status();
  if (!pagemap->real_pfns()) {
    return absl::PermissionDeniedError("frame numbers are hidden; run as root");
  }
  auto scene = std::make_shared<Scene>(*std::move(vm), *std::move(pagemap));
  auto records = CausedRecords::Open(scene->memory.range());
  if (!records.ok()) return std::move(records).status();
  scene->records = *std::move(records);
  return scene;
}

}  // namespace

void BenchVainInvalidations(Bench& bench) {
  constexpr char kVain[] = "kernel.vain";
  constexpr char kRecords[] = "kernel.records";
  if (!bench.Wants(kVain) && !bench.Wants(kRecords)) return;
  const absl::StatusOr<std::shared_ptr<Scene>> made = Set();
  if (!made.ok()) return bench.Skip(kVain, std::string(made.status().message()));
  const std::shared_ptr<Scene> scene = *made;
  const auto compare = [&](const char* name, const char* what, const char* unit,
                           double (*figure)(const Counted&)) {
    Comparison comparison{.name = name, .what = what, .variants = {}, .rounds = 5, .unit = unit};
    for (const Kind& kind : Kinds()) {
      const std::string cause = MostOf(Count(*scene, kind, 1).causes);
      comparison.variants.push_back(
          {.name = absl::StrCat(kind.name, " (", cause, ")"),
           .run = [scene, kind,
                   figure](Turn& turn) { turn.Record(figure(Count(*scene, kind, kOperations))); },
           .goal = {}});
    }
    bench.Compare(std::move(comparison));
  };
  compare(kVain, "invalidations after which every frame of their range was the same", "% vain",
          [](const Counted& counted) {
            return counted.records == 0 ? 0 : 100 * counted.vain / counted.records;
          });
  compare(kRecords, "invalidations for one operation on 64 pages", "records",
          [](const Counted& counted) { return counted.records / kOperations; });
}

}  // namespace underfoot::bench
