// How many invalidations are vain? For each kind of churn that one process can make on its own
// memory, private or a memfd, and for what the kernel does to it by itself if it may (KSM, khugepaged,
// compaction, NUMA balancing): the share of the kernel's invalidations whose range has the same frames afterwards as
// before, by /proc/self/pagemap. The cause in the name of a row is that of most of its records, from
// the kernel's call chain.
//
// Figures are counts and do not depend on the load of the machine. The floor is 0 %: no kind has to
// invalidate what it does not change, but mprotect and write-protection must take permissions.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/caused_records.h"
#include "tests/bench/numa_scans.h"
#include "vmm/base/backing.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/base/unique_fd.h"
#include "vmm/churn/host_knobs.h"
#include "vmm/churn/whole_host.h"
#include "vmm/host/host_changes.h"
#include "vmm/host/knob.h"
#include "vmm/kvm/kvm.h"
#include "vmm/ram/aligned_mapping.h"
#include "vmm/ram/pagemap.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 64;
constexpr uint64_t kBlockPages = kBlockBytes >> kPageShift;
constexpr uint64_t kCompactedPages = 16384;
constexpr unsigned kOperations = 8;  // in a turn
// Of NUMA balancing in an operation. A page moves at the second fault from the same node, or later.
constexpr uint64_t kScans = 4;
constexpr std::chrono::seconds kPatience{3};
constexpr absl::Duration kLook = absl::Milliseconds(5);

// Memory of this process that KVM listens to.
class Scene {
 public:
  static absl::StatusOr<std::shared_ptr<Scene>> Set(Backing backing, uint64_t pages) {
    absl::StatusOr<Kvm> kvm = Kvm::Open();
    if (!kvm.ok()) return std::move(kvm).status();
    absl::StatusOr<Vm> vm = kvm->CreateVm();
    if (!vm.ok()) return std::move(vm).status();
    absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    if (!pagemap.ok()) return std::move(pagemap).status();
    if (!pagemap->real_pfns()) {
      return absl::PermissionDeniedError("frame numbers are hidden; run as root");
    }
    std::shared_ptr<Scene> scene(new Scene(*std::move(vm), *std::move(pagemap)));
    if (absl::Status mapped = scene->Map(backing, pages); !mapped.ok()) return mapped;
    auto records = CausedRecords::Open(scene->range());
    if (!records.ok()) return std::move(records).status();
    scene->records_ = *std::move(records);
    return scene;
  }
  ~Scene() { munmap(PointerOf(range_.begin), range_.size()); }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  HvaRange range() const { return range_; }
  int fd() const { return fd_.get(); }
  uint64_t pages() const { return range_.size() >> kPageShift; }
  HvaRange Page(uint64_t page) const { return PageRangeOf(range_.begin + page * kPageSize); }
  CausedRecords& records() const { return *records_; }

  void Touch(uint64_t page, uint64_t word = 1) const {
    std::atomic_ref(*static_cast<uint64_t*>(PointerOf(Page(page).begin)))
        .store(word, std::memory_order::relaxed);
  }
  void TouchAll() const {
    for (uint64_t page = 0; page < pages(); ++page) Touch(page);
  }
  std::vector<PagemapEntry> Frames() const {
    std::vector<PagemapEntry> entries(pages());
    pagemap_.Read(range_, entries);
    return entries;
  }

 private:
  Scene(Vm vm, Pagemap pagemap) : vm_(std::move(vm)), pagemap_(std::move(pagemap)) {}
  absl::Status Map(Backing backing, uint64_t pages) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (backing == Backing::kMemfd) {
      fd_ = UniqueFd(memfd_create("bench", MFD_CLOEXEC));
      if (!fd_.valid() || ftruncate(fd_.get(), static_cast<off_t>(pages * kPageSize)) != 0) {
        return absl::ErrnoToStatus(errno, "memfd_create");
      }
      flags = MAP_SHARED;
    }
    void* const base = MapAligned(pages * kPageSize, kBlockBytes, flags, fd_.get());
    if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap");
    range_ = PageRangeOf(HvaOf(base), pages);
    static_cast<void>(madvise(base, range_.size(), MADV_NOHUGEPAGE));  // a hint
    return absl::OkStatus();
  }

  const Vm vm_;  // makes KVM listen to the changes of this process
  const Pagemap pagemap_;
  UniqueFd fd_;
  HvaRange range_ = {};
  std::unique_ptr<CausedRecords> records_;
};

struct Kind {
  std::string name;
  std::function<void(const Scene&)> prepare;
  std::function<void(const Scene&)> churn;
};

void Advise(const Scene& scene, int advice) {
  const HvaRange range = scene.range();
  // May be refused, as MADV_PAGEOUT without swap space is not and MADV_COLLAPSE may be.
  static_cast<void>(madvise(PointerOf(range.begin), range.size(), advice));
}

void Protect(const Scene& scene, int protection) {
  const HvaRange range = scene.range();
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
  static_cast<void>(scene.records().Take());  // those of the fork itself
  scene.TouchAll();
  close(ends[1]);
  close(ends[0]);
  waitpid(child, nullptr, 0);
}

void ClearRefs() {
  std::ofstream file("/proc/self/clear_refs");
  file << "4";  // the soft-dirty bits
}

// Of the mapping and, if it has one, of its file.
void Erase(const Scene& scene) {
  if (scene.fd() < 0) return Discard(scene.range());
  const int failed = fallocate(scene.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                               static_cast<off_t>(scene.range().size()));
  UNDERFOOT_CHECK(failed == 0, "a benchmark's hole was refused", errno, 0);
}

void Touched(const Scene& scene) { scene.TouchAll(); }

std::function<void(const Scene&)> Advising(int advice) {
  return [advice](const Scene& scene) { Advise(scene, advice); };
}

// Looks until `done()`, or until the patience is over: then the kernel has not done it.
template <class Done>
void Await(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!done() && std::chrono::steady_clock::now() < end) absl::SleepFor(kLook);
}

uint64_t KsmScans() {
  const absl::StatusOr<std::string> text = ReadKnob(kKsmFullScans);
  return text.ok() ? std::strtoull(text->c_str(), nullptr, 10) : 0;
}

// The scan in progress may have passed the pages already, and KSM merges a page that has not changed
// between two scans.
void LetKsmScan(const Scene& scene) {
  Advise(scene, MADV_MERGEABLE);
  const uint64_t enough = KsmScans() + 3;
  Await([enough] { return KsmScans() >= enough; });
}

void TouchDifferently(const Scene& scene) {
  for (uint64_t page = 0; page < scene.pages(); ++page) {
    scene.Touch(page, scene.Page(page).begin.value);
  }
}

bool IsOneBlock(const Scene& scene) {
  const std::vector<PagemapEntry> frames = scene.Frames();
  for (uint64_t page = 0; page < frames.size(); ++page) {
    if (!frames[page].present || frames[page].pfn.value != frames[0].pfn.value + page) return false;
  }
  return frames[0].pfn.value % kBlockPages == 0;
}

void AsSmallPages(const Scene& scene) {
  Advise(scene, MADV_NOHUGEPAGE);
  Erase(scene);
  scene.TouchAll();
}

// Every fourth page stays, so that compaction finds pages to move and room for them.
void Scattered(const Scene& scene) {
  scene.TouchAll();
  for (uint64_t page = 0; page < scene.pages(); ++page) {
    if (page % 4 != 0) Discard(scene.Page(page));
  }
}

std::vector<Kind> MemfdKinds() {
  return {
      {"zap of present pages", Touched, Advising(MADV_DONTNEED)},
      {"zap of absent pages", Advising(MADV_DONTNEED), Advising(MADV_DONTNEED)},
      {"hole over present pages", Touched, Erase},
      {"hole over zapped pages",
       [](const Scene& scene) {
         scene.TouchAll();
         Advise(scene, MADV_DONTNEED);
       },
       Erase},
      {"hole over a hole", Erase, Erase},
      {"page-out", Touched, Advising(MADV_PAGEOUT)},
      {"mprotect to read-only", Touched, [](const Scene& scene) { Protect(scene, PROT_READ); }},
      {"clear_refs", Touched, [](const Scene&) { ClearRefs(); }},
      {"fork", Touched, [](const Scene&) { Fork(); }},
  };
}

void AsEqualPages(const Scene& scene) {
  Advise(scene, MADV_UNMERGEABLE);
  scene.TouchAll();
}

// What the kernel does by itself to memory that it may merge.
std::vector<Kind> KsmKinds() {
  return {
      {"KSM merges equal pages", AsEqualPages, LetKsmScan},
      {"a write to merged pages",
       [](const Scene& scene) {
         AsEqualPages(scene);
         LetKsmScan(scene);
       },
       TouchDifferently},
      {"KSM scans pages that differ",
       [](const Scene& scene) {
         Advise(scene, MADV_UNMERGEABLE);
         TouchDifferently(scene);
       },
       LetKsmScan},
  };
}

void Collapse(const Scene& scene) {
  Advise(scene, MADV_HUGEPAGE);
  Advise(scene, newer::kMadvCollapse);
}

std::vector<Kind> BlockKinds() {
  return {{"collapse by madvise", AsSmallPages, Collapse},
          {"collapse of a huge page", Collapse, Collapse}};
}

std::vector<Kind> KhugepagedKinds() {
  return {{"collapse by khugepaged", AsSmallPages, [](const Scene& scene) {
             Advise(scene, MADV_HUGEPAGE);
             Await([&scene] { return IsOneBlock(scene); });
           }}};
}

std::vector<Kind> CompactionKinds() {
  return {{"compaction of the host", Scattered, [](const Scene&) {
             static_cast<void>(CompactHostMemory());  // it may find nothing to move
           }}};
}

std::vector<Kind> Kinds() {
  const auto touched = Touched;
  const auto absent = [](const Scene& scene) { Discard(scene.range()); };
  const auto advise = Advising;
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

void PagesOfNode0(const Scene& scene) {
  OnNode(0, [&scene] {
    Erase(scene);
    scene.TouchAll();
  });
}

std::function<void(const Scene&)> ScannedWhileTouchedBy(unsigned node) {
  return [node](const Scene& scene) {
    OnNode(node, [&scene] { UseUntilScanned(kScans, [&scene] { scene.TouchAll(); }); });
  };
}

std::vector<Kind> NumaKinds() {
  return {{"4 scans, touched by their own node", PagesOfNode0, ScannedWhileTouchedBy(0)},
          {"4 scans, touched by the other node", PagesOfNode0, ScannedWhileTouchedBy(1)},
          {"4 scans, not touched", PagesOfNode0,
           [](const Scene&) { OnNode(0, [] { UseUntilScanned(kScans, [] {}); }); }}};
}

struct Counted {
  double operations = 0;
  double records = 0;
  double vain = 0;
  std::map<std::string, unsigned> causes;

  void Add(const Counted& more) {
    operations += more.operations;
    records += more.records;
    vain += more.vain;
    for (const auto& [cause, count] : more.causes) causes[cause] += count;
  }
};

bool FramesChanged(const Scene& scene, HvaRange told, const std::vector<PagemapEntry>& before,
                   const std::vector<PagemapEntry>& after) {
  const Hva begin = std::max(told.begin, scene.range().begin);
  const Hva end = std::min(told.end, scene.range().end);
  for (uint64_t page = (begin - scene.range().begin) / kPageSize; scene.Page(page).begin < end;
       ++page) {
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
    counted.operations += 1;
    kind.prepare(scene);
    static_cast<void>(scene.records().Take());
    const std::vector<PagemapEntry> before = scene.Frames();
    kind.churn(scene);
    const std::vector<PagemapEntry> after = scene.Frames();
    for (const CausedRecord& record : scene.records().Take()) {
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

// Kinds of churn of one memory.
struct Act {
  std::string suffix;  // of the names of the comparisons
  Backing backing = Backing::kAnon;
  uint64_t pages = kPages;
  unsigned operations = kOperations;
  std::vector<Kind> (*kinds)() = Kinds;
  // The kernel need not do it each time: a figure is of all operations so far.
  bool adds_up = false;
  // How often the kernel has done it. A turn in which it has not is discarded.
  uint64_t (*done)() = nullptr;
};

// Its first operations, until they make a record: the kernel may not be awake yet.
Counted Rehearse(const Scene& scene, const Kind& kind) {
  Counted counted;
  for (unsigned tries = 0; tries < 3 && counted.records == 0; ++tries) {
    counted.Add(Count(scene, kind, 1));
  }
  return counted;
}

void Compare(Bench& bench, const Act& act) {
  const std::string vain = absl::StrCat("kernel.vain", act.suffix);
  const std::string records = absl::StrCat("kernel.records", act.suffix);
  if (!bench.Wants(vain) && !bench.Wants(records)) return;
  const absl::StatusOr<std::shared_ptr<Scene>> made = Scene::Set(act.backing, act.pages);
  if (!made.ok()) return bench.Skip(vain, std::string(made.status().message()));
  const std::shared_ptr<Scene> scene = *made;
  struct Named {
    std::string name;
    Kind kind;
    std::shared_ptr<Counted> so_far;
  };
  std::vector<Named> named;
  for (Kind& kind : act.kinds()) {
    auto rehearsed = std::make_shared<Counted>(Rehearse(*scene, kind));
    const std::string cause = MostOf(rehearsed->causes);
    named.push_back({absl::StrCat(kind.name, " (", cause, ")"), std::move(kind), rehearsed});
  }
  const auto compare = [&](const std::string& name, std::string what, const char* unit,
                           double (*figure)(const Counted&)) {
    Comparison comparison{
        .name = name, .what = std::move(what), .variants = {}, .rounds = 5, .unit = unit};
    for (const Named& each : named) {
      comparison.variants.push_back({.name = each.name,
                                     .run =
                                         [=, operations = act.operations, adds_up = act.adds_up,
                                          done = act.done](Turn& turn) {
                                           const uint64_t before = done == nullptr ? 0 : done();
                                           const Counted counted =
                                               Count(*scene, each.kind, operations);
                                           if (done != nullptr && done() == before)
                                             return turn.Discard();
                                           each.so_far->Add(counted);
                                           turn.Record(figure(adds_up ? *each.so_far : counted));
                                         },
                                     .goal = {}});
    }
    bench.Compare(std::move(comparison));
  };
  compare(vain, "invalidations after which every frame of their range was the same", "% vain",
          [](const Counted& counted) {
            return counted.records == 0 ? 0 : 100 * counted.vain / counted.records;
          });
  compare(records, absl::StrCat("invalidations for one operation on ", act.pages, " pages"),
          "records", [](const Counted& counted) { return counted.records / counted.operations; });
}

bool Wants(const Bench& bench, std::initializer_list<const char*> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(), [&bench](const char* suffix) {
    return bench.Wants(absl::StrCat("kernel.vain", suffix)) ||
           bench.Wants(absl::StrCat("kernel.records", suffix));
  });
}

// The knobs have these values as long as the returned changes live.
absl::StatusOr<std::unique_ptr<HostChanges>> SetKnobs(
    const std::vector<std::pair<std::string, std::string>>& knobs) {
  absl::StatusOr<std::unique_ptr<HostChanges>> host =
      HostChanges::Take([](std::string_view line) { std::cerr << line << "\n"; });
  if (!host.ok()) return host;
  for (const auto& [path, value] : knobs) {
    if (absl::Status set = (*host)->SetKnob(path, value); !set.ok()) return set;
  }
  return host;
}

// KSM and khugepaged run, and run often, as long as the returned changes live.
absl::StatusOr<std::unique_ptr<HostChanges>> WakeTheKernel() {
  constexpr char kKhugepaged[] = "/sys/kernel/mm/transparent_hugepage/khugepaged/";
  absl::StatusOr<std::unique_ptr<HostChanges>> host =
      SetKnobs({{kKsmPagesToScan, "10000"},
                {kKsmSleepMs, "5"},
                {kKsmRun, "1"},
                {absl::StrCat(kKhugepaged, "scan_sleep_millisecs"), "5"},
                {absl::StrCat(kKhugepaged, "pages_to_scan"), "100000"}});
  if (!host.ok()) return host;
  // With smart scan, KSM leaves out pages that did not merge before. Linux 6.7.
  constexpr char kSmartScan[] = "/sys/kernel/mm/ksm/smart_scan";
  if (!ReadKnob(kSmartScan).ok()) return host;
  if (absl::Status set = (*host)->SetKnob(kSmartScan, "0"); !set.ok()) return set;
  return host;
}

void CompareWhatTheKernelDoes(Bench& bench) {
  if (!Wants(bench, {".ksm", ".khugepaged", ".compaction"})) return;
  constexpr char kByTheKernel[] = "kernel.vain.ksm";
  if (!bench.may_change_host()) {
    return bench.Skip(kByTheKernel, "KSM, khugepaged and compaction take --allow-host-changes");
  }
  const absl::StatusOr<std::unique_ptr<HostChanges>> host = WakeTheKernel();
  if (!host.ok()) return bench.Skip(kByTheKernel, std::string(host.status().message()));
  Compare(bench, {.suffix = ".ksm", .operations = 1, .kinds = KsmKinds});
  Compare(
      bench,
      {.suffix = ".khugepaged", .pages = kBlockPages, .operations = 1, .kinds = KhugepagedKinds});
  Compare(bench, {.suffix = ".compaction",
                  .pages = kCompactedPages,
                  .operations = 1,
                  .kinds = CompactionKinds,
                  .adds_up = true});
}

void CompareNumaBalancing(Bench& bench) {
  if (!Wants(bench, {".numa", ".numa.memfd"})) return;
  constexpr char kName[] = "kernel.vain.numa";
  if (CpusOfNodes().size() < 2) {
    return bench.Skip(kName, "NUMA balancing takes CPUs of two NUMA nodes, and here is one");
  }
  if (!bench.may_change_host()) {
    return bench.Skip(kName, "NUMA balancing takes --allow-host-changes");
  }
  const absl::StatusOr<std::unique_ptr<HostChanges>> host = SetKnobs(NumaBalancingKnobs());
  if (!host.ok()) {
    return bench.Skip(kName, absl::StrCat("NUMA balancing, whose settings are in debugfs: ",
                                          std::string(host.status().message())));
  }
  bool scanned = false;
  OnNode(0, [&scanned] { scanned = UseUntilScanned(1, [] {}); });
  if (!scanned) return bench.Skip(kName, "NUMA balancing has not scanned this process");
  Compare(bench, {.suffix = ".numa", .operations = 1, .kinds = NumaKinds, .done = NumaScans});
  Compare(bench, {.suffix = ".numa.memfd",
                  .backing = Backing::kMemfd,
                  .operations = 1,
                  .kinds = NumaKinds,
                  .done = NumaScans});
}

}  // namespace

void BenchVainInvalidations(Bench& bench) {
  Compare(bench, {});
  Compare(bench, {.suffix = ".memfd", .backing = Backing::kMemfd, .kinds = MemfdKinds});
  Compare(bench,
          {.suffix = ".collapse", .pages = kBlockPages, .operations = 2, .kinds = BlockKinds});
  CompareWhatTheKernelDoes(bench);
  CompareNumaBalancing(bench);
}

}  // namespace underfoot::bench
