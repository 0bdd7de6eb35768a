// Which pages has a guest touched? Methods to find out, side by side, against the guest's own record.
// In each turn a method clears its marks, the guest writes to some pages of one half of its memory and
// reads some of the other half, and the method says which pages it holds for touched.
//
//   zap and minor fault    our method on a memfd: all pages are zapped, and those that are present
//                          afterwards were touched. Each touch costs a fault that a thread resolves
//   WP_ASYNC               our method on private memory: the kernel notes the first write to a page
//                          itself. Reads leave no trace
//   KVM's dirty log        writes only, too
//   clear_refs and smaps   the kernel's ages. The accessed bits that it clears and reads are those of
//                          the process; a guest that has a translation already sets others. Each page
//                          is a mapping of its own here, since smaps counts by mapping; so its time
//                          says nothing about ages
//
// The floor of the scan is a read of one bit a page; that of a touch, the guest's own write.

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/check.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/caused_records.h"
#include "tests/bench/cpus.h"
#include "tests/bench/touched_ram.h"
#include "tests/bench/touching_guest.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kHalf = kPages / 2;
constexpr TouchingGuest::Some kWritten{
    .first = 0, .pages = kHalf, .touched = kHalf / 4, .access = Access::kWrite};
constexpr TouchingGuest::Some kRead{
    .first = kHalf, .pages = kHalf, .touched = kHalf / 4, .access = Access::kRead};

using Pages = std::vector<bool>;  // by page

// A guest in memory of which a method finds out what was touched.
class Method {
 public:
  virtual ~Method() = default;
  virtual HvaRange range() const = 0;
  // From now on the method notices touches.
  virtual void Clear() = 0;
  // Those that were touched since Clear, as far as the method knows.
  virtual Pages Collect() = 0;

  // The guest runs, and has touched every page.
  absl::Status Start() {
    absl::StatusOr<std::unique_ptr<TouchingGuest>> guest =
        TouchingGuest::Create(range(), {.stride = kScattered});
    if (!guest.ok()) return std::move(guest).status();
    guest_ = *std::move(guest);
    guest_->TouchAll();
    return Prepare();
  }
  Pages RunGuest() {
    Pages touched(kPages);
    for (const TouchingGuest::Some& some : {kWritten, kRead}) {
      guest_->Touch(some);
      for (const uint64_t page : guest_->Touched(some)) touched[page] = true;
    }
    return touched;
  }

 protected:
  virtual absl::Status Prepare() { return absl::OkStatus(); }
  TouchingGuest& guest() { return *guest_; }
  // A method whose memory would go first calls it in its destructor: the VM maps the memory.
  void End() { guest_.reset(); }

 private:
  std::unique_ptr<TouchingGuest> guest_;
};

class ZapAndMinorFault final : public Method {
 public:
  static absl::StatusOr<std::shared_ptr<Method>> Create(int cpu) {
    absl::StatusOr<std::shared_ptr<MonitoredRam>> ram = MonitoredRam::Create(
        {.backing = Backing::kMemfd, .left = Left::kContent, .around = 1, .cpu = cpu});
    if (!ram.ok()) return std::move(ram).status();
    absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    if (!pagemap.ok()) return std::move(pagemap).status();
    return std::shared_ptr<Method>(new ZapAndMinorFault(*std::move(ram), *std::move(pagemap)));
  }
  ~ZapAndMinorFault() override { End(); }

  HvaRange range() const override { return ram_->range(); }
  void Clear() override { ram_->Empty(); }
  Pages Collect() override {
    std::vector<PagemapEntry> entries(kPages);
    pagemap_.Read(range(), entries);
    Pages touched(kPages);
    for (uint64_t page = 0; page < kPages; ++page) touched[page] = entries[page].present;
    return touched;
  }

 private:
  ZapAndMinorFault(std::shared_ptr<MonitoredRam> ram, Pagemap pagemap)
      : ram_(std::move(ram)), pagemap_(std::move(pagemap)) {}

  const std::shared_ptr<MonitoredRam> ram_;
  const Pagemap pagemap_;
};

class AsyncWriteProtect final : public Method {
 public:
  static absl::StatusOr<std::shared_ptr<Method>> Create() {
    absl::StatusOr<Userfaultfd> uffd =
        Userfaultfd::Open({.events = UffdEvents::kNone, .async_write_protect = true});
    if (!uffd.ok()) return std::move(uffd).status();
    absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    if (!pagemap.ok()) return std::move(pagemap).status();
    return std::shared_ptr<Method>(new AsyncWriteProtect(*std::move(uffd), *std::move(pagemap)));
  }
  ~AsyncWriteProtect() override { End(); }

  HvaRange range() const override { return memory_.range(); }
  void Clear() override { static_cast<void>(Take()); }
  Pages Collect() override { return Take(); }

 private:
  AsyncWriteProtect(Userfaultfd uffd, Pagemap pagemap)
      : uffd_(std::move(uffd)), pagemap_(std::move(pagemap)) {}
  absl::Status Prepare() override {
    if (absl::Status done = uffd_.Register(range(), Backing::kAnon); !done.ok()) return done;
    if (absl::Status done = hooked::WriteProtect(uffd_, range()); !done.ok()) return done;
    return hooked::TakeWritten(pagemap_, range()).status();
  }
  Pages Take() {
    const absl::StatusOr<std::vector<HvaRange>> written = hooked::TakeWritten(pagemap_, range());
    UNDERFOOT_CHECK(written.ok(), "a benchmark's PAGEMAP_SCAN failed", written.status().raw_code(),
                    0);
    Pages pages(kPages);
    for (const HvaRange some : *written) {
      for (Hva page = some.begin; page < some.end; page += kPageSize) {
        pages[(page - range().begin) / kPageSize] = true;
      }
    }
    return pages;
  }

  const AnonymousMemory memory_{kPages};
  Userfaultfd uffd_;  // goes before the memory
  const Pagemap pagemap_;
};

class DirtyLog final : public Method {
 public:
  static absl::StatusOr<std::shared_ptr<Method>> Create() {
    return std::shared_ptr<Method>(new DirtyLog());
  }
  ~DirtyLog() override { End(); }

  HvaRange range() const override { return memory_.range(); }
  void Clear() override { static_cast<void>(Take()); }
  Pages Collect() override { return Take(); }

 private:
  DirtyLog() = default;
  absl::Status Prepare() override { return guest().LogWrites(); }
  Pages Take() {
    const absl::StatusOr<std::vector<uint64_t>> log = guest().TakeWritten();
    UNDERFOOT_CHECK(log.ok(), "a benchmark's dirty log failed", log.status().raw_code(), 0);
    Pages pages(kPages);
    for (uint64_t page = 0; page < kPages; ++page) {
      pages[page] = ((*log)[page / 64] >> page % 64 & 1) != 0;
    }
    return pages;
  }

  const AnonymousMemory memory_{kPages};
};

class ClearRefs final : public Method {
 public:
  static absl::StatusOr<std::shared_ptr<Method>> Create() {
    return std::shared_ptr<Method>(new ClearRefs());
  }
  ~ClearRefs() override { End(); }

  HvaRange range() const override { return memory_.range(); }
  void Clear() override { std::ofstream("/proc/self/clear_refs") << "1"; }
  Pages Collect() override {
    Pages touched(kPages);
    std::ifstream smaps("/proc/self/smaps");
    Hva mapping{0};
    for (std::string line; std::getline(smaps, line);) {
      std::istringstream words(line);
      std::string name;
      uint64_t kibibytes = 0;
      if (line.find('-') < line.find(' ')) {
        words >> std::hex >> mapping.value;
      } else if (words >> name >> kibibytes; name == "Referenced:" && range().Contains(mapping)) {
        touched[(mapping - range().begin) / kPageSize] = kibibytes != 0;
      }
    }
    return touched;
  }

 private:
  // A touch of this process must be found: otherwise nothing is read here.
  absl::Status Prepare() override {
    Clear();
    memory_.Touch(1);
    if (Collect()[1]) return absl::OkStatus();
    return absl::FailedPreconditionError("/proc/self/smaps does not show that a page was touched");
  }
  ClearRefs() {
    for (uint64_t page = 0; page < kPages; page += 2) {
      const int split = madvise(PointerOf(memory_.Pages(page, 1).begin), kPageSize, MADV_DONTFORK);
      UNDERFOOT_CHECK(split == 0, "a benchmark's madvise failed", errno, page);
    }
  }

  const AnonymousMemory memory_{kPages};
};

struct Named {
  std::string name;
  std::shared_ptr<Method> method;
  bool ages = false;
};

struct Estimate {
  double scan_ns = 0;   // a page
  double touch_ns = 0;  // a touched page
  double right = 0;     // pages
  double seen = 0;
  double touched = 0;
};

Estimate Make(Method& method) {
  Estimate estimate;
  Stopwatch clear;
  method.Clear();
  estimate.scan_ns = clear.ElapsedNs();
  const Stopwatch touch;
  const Pages touched = method.RunGuest();
  estimate.touch_ns = touch.ElapsedNs() / static_cast<double>(kWritten.touched + kRead.touched);
  const Stopwatch collect;
  const Pages seen = method.Collect();
  estimate.scan_ns = (estimate.scan_ns + collect.ElapsedNs()) / static_cast<double>(kPages);
  for (uint64_t page = 0; page < kPages; ++page) {
    estimate.right += seen[page] && touched[page] ? 1 : 0;
    estimate.seen += seen[page] ? 1 : 0;
    estimate.touched += touched[page] ? 1 : 0;
  }
  return estimate;
}

using Methods = std::vector<Named>;

template <class Figure>
void Compare(Bench& bench, const Methods& methods, const char* name, const char* what,
             const char* unit, bool ages, const Figure& figure) {
  Comparison comparison{.name = name, .what = what, .variants = {}, .rounds = 10, .unit = unit};
  for (const Named& named : methods) {
    if (named.ages && !ages) continue;
    comparison.variants.push_back(
        {.name = named.name,
         .run = [method = named.method, figure](Turn& turn) { turn.Record(figure(Make(*method))); },
         .goal = {}});
  }
  bench.Compare(std::move(comparison));
}

// The invalidations of KVM between the clearing of the marks and the end of the estimate.
void CompareInvalidations(Bench& bench, const Methods& methods, const char* name) {
  if (!bench.Wants(name)) return;
  Comparison comparison{
      .name = name,
      .what =
          "invalidations that KVM received for one estimate of 4096 pages, 1024 of them touched",
      .variants = {},
      .rounds = 6,
      .unit = "records"};
  for (const Named& named : methods) {
    absl::StatusOr<std::unique_ptr<CausedRecords>> opened =
        CausedRecords::Open(named.method->range());
    if (!opened.ok()) return bench.Skip(name, std::string(opened.status().message()));
    const std::shared_ptr<CausedRecords> records = *std::move(opened);
    comparison.variants.push_back({.name = named.name,
                                   .run =
                                       [method = named.method, records](Turn& turn) {
                                         static_cast<void>(records->Take());
                                         static_cast<void>(Make(*method));
                                         turn.Record(static_cast<double>(records->Take().size()));
                                       },
                                   .goal = {}});
  }
  bench.Compare(std::move(comparison));
}

absl::StatusOr<Methods> Start(int cpu) {
  Methods methods;
  const auto add = [&](std::string name, absl::StatusOr<std::shared_ptr<Method>> made,
                       bool ages = false) {
    if (!made.ok()) return std::move(made).status();
    methods.push_back({std::move(name), *made, ages});
    return (*made)->Start();
  };
  absl::Status started;
  started.Update(add("zap and minor fault (ours, memfd)", ZapAndMinorFault::Create(cpu)));
  started.Update(add("WP_ASYNC and PAGEMAP_SCAN (ours, private)", AsyncWriteProtect::Create()));
  started.Update(add("KVM's dirty log", DirtyLog::Create()));
  started.Update(add("clear_refs and smaps", ClearRefs::Create(), true));
  if (!started.ok()) return started;
  return methods;
}

}  // namespace

void BenchWorkingSet(Bench& bench) {
  constexpr char kRecall[] = "working_set.recall";
  constexpr char kPrecision[] = "working_set.precision";
  constexpr char kScan[] = "working_set.scan";
  constexpr char kTouch[] = "working_set.touch";
  constexpr char kInvalidations[] = "working_set.invalidations";
  if (!bench.Wants(kRecall) && !bench.Wants(kPrecision) && !bench.Wants(kScan) &&
      !bench.Wants(kTouch) && !bench.Wants(kInvalidations)) {
    return;
  }
  const Pinned pinned(AllowedCpus().front());
  const absl::StatusOr<Methods> methods = Start(AllowedCpus().front());
  if (!methods.ok()) return bench.Skip("working_set", std::string(methods.status().message()));
  Compare(bench, *methods, kRecall,
          "the share of the pages that a guest touched, half of them by reads, that was found",
          "% found", true, [](const Estimate& e) { return 100 * e.right / e.touched; });
  Compare(bench, *methods, kPrecision, "the share of what was found that the guest had touched",
          "% right", true,
          [](const Estimate& e) { return e.seen == 0 ? 0 : 100 * e.right / e.seen; });
  Compare(bench, *methods, kScan, "the clearing and the reading of the marks, a page of 4096", "ns",
          false, [](const Estimate& e) { return e.scan_ns; });
  Compare(bench, *methods, kTouch, "a guest's first access to a page since the marks were cleared",
          "ns", true, [](const Estimate& e) { return e.touch_ns; });
  CompareInvalidations(bench, *methods, kInvalidations);
}

}  // namespace underfoot::bench
