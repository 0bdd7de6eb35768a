// Guest RAM whose pages come and go, and a guest that touches each of them once: without a monitor,
// and as the machine keeps it.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_TOUCHED_RAM_H_
#define UNDERFOOT_TESTS_BENCH_TOUCHED_RAM_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/check.h"
#include "tests/bench/comparison.h"
#include "tests/bench/cpus.h"
#include "tests/bench/stopwatch.h"
#include "tests/bench/touching_guest.h"
#include "vmm/base/unique_fd.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/host/host_changes.h"
#include "vmm/host/huge_page_host.h"
#include "vmm/ram/aligned_mapping.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::bench {

inline constexpr uint64_t kRamBytes = uint64_t{64} << 20;
inline constexpr uint64_t kPages = 4096;
inline constexpr uint64_t kScattered = 1221;  // no two faults follow one another

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
  struct Options {
    Backing backing = Backing::kAnon;
    Left left = Left::kNothing;
    uint64_t around = 1;
    std::optional<int> cpu = {};  // of the handler
    unsigned handlers = 1;
    HugePages huge = HugePages::kOff;
    uint64_t pages = kPages;
    HostChanges* host = nullptr;  // nullptr: the host stays as it is
  };
  static absl::StatusOr<std::shared_ptr<MonitoredRam>> Create(const Options& options) {
    const uint64_t bytes = std::max(kRamBytes, options.pages * kPageSize + kBesideRange);
    if (absl::Status has =
            HugePageHost().Provide(options.huge, options.backing, bytes, options.host);
        !has.ok()) {
      return has;
    }
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram =
        CoherentRam::Create({.bytes = bytes,
                             .backing = options.backing,
                             .huge_pages = options.huge,
                             .fault_around = options.around,
                             .fault_handlers = options.handlers});
    if (!ram.ok()) return std::move(ram).status();
    std::shared_ptr<MonitoredRam> self(
        new MonitoredRam(*std::move(ram), options.left, options.pages));
    const Gfn first = GfnOf(self->ram_->memory().slots()[2].gpa);
    const absl::Status slot = self->ram_->mmu().CreateMemslot(
        {.id = 0, .gfns = {first, first + options.pages}, .hva = self->range().begin});
    if (!slot.ok()) return slot;
    std::optional<Pinned> pinned;
    if (options.cpu.has_value())
      pinned.emplace(*options.cpu);  // the monitor's thread takes it over
    if (absl::Status started = self->ram_->Start(); !started.ok()) return started;
    return self;
  }
  MonitoredRam(const MonitoredRam&) = delete;
  MonitoredRam& operator=(const MonitoredRam&) = delete;

  HvaRange range() const { return PageRangeOf(ram_->memory().slots()[2].hva, pages_); }
  void Empty() {
    if (left_ == Left::kContent) {
      const absl::Status zapped = hooked::Madvise(range(), MADV_DONTNEED);
      UNDERFOOT_CHECK(zapped.ok(), "a hooked zap failed", range().begin.value, zapped.raw_code());
      return;
    }
    for (uint64_t page = 0; page < pages_; page += kAtOnce) {
      const absl::StatusOr<uint64_t> gone =
          ram_->hooks().Discard(PageRangeOf(range().begin + page * kPageSize, kAtOnce));
      UNDERFOOT_CHECK(gone.ok(), "a hooked discard failed", page, gone.status().raw_code());
    }
  }

 private:
  static constexpr uint64_t kAtOnce = kBlockBytes >> kPageShift;
  // The memory before the range: the system area and the slot of the shared page.
  static constexpr uint64_t kBesideRange = uint64_t{32} << 20;

  MonitoredRam(std::unique_ptr<CoherentRam> ram, Left left, uint64_t pages)
      : ram_(std::move(ram)), left_(left), pages_(pages) {}

  const std::unique_ptr<CoherentRam> ram_;
  const Left left_;
  const uint64_t pages_;
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

// The pages a second that all vCPUs together touch.
template <class Ram>
absl::StatusOr<Variant> Touching(std::string name, absl::StatusOr<std::shared_ptr<Ram>> made,
                                 uint64_t pages, TouchingGuest::Options options) {
  options.keep_times = false;
  return WithGuest(std::move(name), std::move(made), options, {},
                   [pages](Ram& ram, TouchingGuest& guest, Turn& turn) {
                     ram.Empty();
                     const Stopwatch watch;
                     guest.TouchAll();
                     turn.Record(static_cast<double>(pages) * 1e9 / watch.ElapsedNs());
                   });
}

// With options.pin the guest runs on the first CPU. Nothing else is pinned by it: a thread that works
// ahead of the guest must not share its CPU.
template <class Ram>
absl::StatusOr<Variant> Touched(std::string name, absl::StatusOr<std::shared_ptr<Ram>> made,
                                std::optional<Goal> goal = {},
                                const TouchingGuest::Options& options = {}) {
  return WithGuest(std::move(name), std::move(made), options, goal,
                   [](Ram& ram, TouchingGuest& guest, Turn& turn) {
                     const Pinned pinned(guest.CpusOf(0));
                     ram.Empty();
                     turn.Time(kPages, [&] { guest.TouchAll(); });
                   });
}

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_TOUCHED_RAM_H_
