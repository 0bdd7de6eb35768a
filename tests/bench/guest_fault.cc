// The first write of a guest to each page of its memory, in turn: through our monitor and fault
// path, with and without fault-around, against the kernel's own demand paging of the same guest.

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mmu/check.h"
#include "tests/bench/bench.h"
#include "tests/bench/cpus.h"
#include "tests/bench/touching_guest.h"
#include "vmm/memory/event_log.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/guest_page_source.h"
#include "vmm/memory/mm_hooks.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_monitor.h"
#include "vmm/memory/userfaultfd.h"
#include "vmm/unique_fd.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kRamBytes = uint64_t{64} << 20;
constexpr uint64_t kPages = 4096;

// What a memfd still has of pages that are not mapped.
enum class Left : uint8_t { kNothing, kContent };

// RAM that nobody watches: the kernel's own demand paging.
class PlainRam {
 public:
  static absl::StatusOr<std::shared_ptr<PlainRam>> Create(Backing backing, Left left) {
    auto self = std::make_shared<PlainRam>();
    self->left_ = left;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (backing == Backing::kMemfd) {
      self->fd_ = UniqueFd(memfd_create("bench", MFD_CLOEXEC));
      if (!self->fd_.valid() || ftruncate(self->fd_.get(), kPages * kPageSize) != 0) {
        return absl::ErrnoToStatus(errno, "memfd_create");
      }
      flags = MAP_SHARED;
    }
    void* const base =
        mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, flags, self->fd_.get(), 0);
    if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap");
    static_cast<void>(madvise(base, kPages * kPageSize, MADV_NOHUGEPAGE));  // a hint
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
                                                              uint64_t around, int cpu) {
    absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({});
    if (!uffd.ok()) return std::move(uffd).status();
    absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    if (!pagemap.ok()) return std::move(pagemap).status();
    absl::StatusOr<std::unique_ptr<GuestMemory>> memory =
        GuestMemory::Create(kRamBytes, backing, *uffd);
    if (!memory.ok()) return std::move(memory).status();
    std::shared_ptr<MonitoredRam> self(
        new MonitoredRam(*std::move(memory), *std::move(uffd), *std::move(pagemap), around));
    self->left_ = left;
    const GuestMemory& ram = *self->memory_;
    if (absl::Status on = self->hooks_.Attach(ram.hvas(), backing, ram.fd()); !on.ok()) return on;
    const Gfn first = GfnOf(ram.slots()[2].gpa);
    const absl::Status slot = self->mmu_.CreateMemslot(
        {.id = 0, .gfns = {first, first + kPages}, .hva = self->range().begin});
    if (!slot.ok()) return slot;
    const Pinned pinned(cpu);  // the monitor's thread takes it over
    if (absl::Status started = self->monitor_.Start(); !started.ok()) return started;
    return self;
  }
  ~MonitoredRam() { monitor_.Stop(); }
  MonitoredRam(const MonitoredRam&) = delete;
  MonitoredRam& operator=(const MonitoredRam&) = delete;

  HvaRange range() const { return PageRangeOf(memory_->slots()[2].hva, kPages); }
  void Empty() {
    if (left_ == Left::kContent) {
      const absl::Status zapped = hooks_.Madvise(range(), MADV_DONTNEED);
      UNDERFOOT_CHECK(zapped.ok(), "a hooked zap failed", range().begin.value, zapped.raw_code());
      return;
    }
    for (uint64_t page = 0; page < kPages; page += kAtOnce) {
      const absl::Status gone =
          hooks_.Discard(PageRangeOf(range().begin + page * kPageSize, kAtOnce));
      UNDERFOOT_CHECK(gone.ok(), "a hooked discard failed", page, gone.raw_code());
    }
  }

 private:
  static constexpr uint64_t kAtOnce = 128;

  MonitoredRam(std::unique_ptr<GuestMemory> memory, Userfaultfd uffd, Pagemap pagemap,
               uint64_t around)
      : memory_(std::move(memory)),
        uffd_(std::move(uffd)),
        pagemap_(std::move(pagemap)),
        source_(uffd_, pagemap_, settling_, memory_->backing()),
        mmu_(source_),
        hooks_(mmu_.notifier(), uffd_, expected_, &events_),
        monitor_(mmu_, uffd_, pagemap_, source_, expected_, settling_, &events_, around) {}

  Left left_ = Left::kNothing;
  std::unique_ptr<GuestMemory> memory_;
  Userfaultfd uffd_;  // goes before the memory
  Pagemap pagemap_;
  SettlingRanges settling_;
  ExpectedEvents expected_;
  GuestPageSource source_;
  Mmu mmu_;
  EventLog events_;
  MmHooks hooks_;
  UffdMonitor monitor_;
};

template <class Ram>
absl::StatusOr<Variant> Touched(std::string name, absl::StatusOr<std::shared_ptr<Ram>> made,
                                std::optional<Goal> goal = {}) {
  if (!made.ok()) return std::move(made).status();
  const std::shared_ptr<Ram> ram = *std::move(made);
  absl::StatusOr<std::unique_ptr<TouchingGuest>> guest = TouchingGuest::Create(ram->range());
  if (!guest.ok()) return std::move(guest).status();
  // The guest goes first: its VM maps the memory.
  struct Both {
    std::shared_ptr<Ram> ram;
    std::unique_ptr<TouchingGuest> guest;
  };
  auto both = std::make_shared<Both>(Both{ram, *std::move(guest)});
  return Variant{.name = std::move(name),
                 .run =
                     [both](Turn& turn) {
                       both->ram->Empty();
                       turn.Time(kPages, [&] { both->guest->TouchAll(); });
                     },
                 .goal = goal};
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

}  // namespace

void BenchGuestFault(Bench& bench) {
  if (!bench.WantsGroup("fault")) return;
  const std::vector<int>& cpus = AllowedCpus();
  const Pinned pinned(cpus[0]);
  const auto compare = [&](const std::string& where, int cpu) {
    const std::string group = "fault.sequential.";
    Compare(bench, group + "anon." + where, Backing::kAnon, Left::kNothing, cpu, 0.5);
    Compare(bench, group + "memfd." + where, Backing::kMemfd, Left::kNothing, cpu, 0.3);
    Compare(bench, group + "memfd_zapped." + where, Backing::kMemfd, Left::kContent, cpu, 0.3);
  };
  compare("handler_on_this_cpu", cpus[0]);
  if (cpus.size() < 2) return bench.Skip("fault.sequential.*_other_cpu", "it takes two CPUs");
  compare("handler_on_the_other_cpu", cpus[1]);
}

}  // namespace underfoot::bench
