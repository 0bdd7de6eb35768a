// Torture of the memory side: real pages are stamped and verified while hooks and foreigners move
// them.
//
//   pages [0, 64)     moved by hooks only       strict: in a section the kernel agrees with the
//   leaf pages [64, 128)   moved by all threads      half pairs: the content holds, what is lost is
//   found
//
// On a memfd even pages are precious: nothing that loses content is done to them. All others may
// become zeroes, and then stay zeroes until they are written.
//
// UNDERFOOT_STRESS_MS makes each test longer; UNDERFOOT_EVENTS ends it after so many removals, and
// wants all of them, and some that were read after a fault that came later.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

#include "mmu/pfn_cache.h"
#include "tests/memory/changes_by_others.h"
#include "tests/memory/memory_test.h"
#include "tests/stress/squad.h"
#include "tests/support/seed.h"
#include "vmm/audit/auditor.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPages = 128;
constexpr uint64_t kHookedPages = 64;

struct Torture {
  Backing backing;
  int settle_ms;
  unsigned handlers = 1;
};

// What its owner knows of a page.
struct Note {
  uint64_t stamp = 0;
  bool zero_seen = true;
};

class MemoryTortureTest : public ::testing::TestWithParam<Torture> {
 protected:
  void SetUp() override {
    auto side = MemorySide::Create({.backing = GetParam().backing,
                                    .fault_handlers = GetParam().handlers,
                                    .removal_bound = absl::Milliseconds(GetParam().settle_ms)});
    if (absl::IsPermissionDenied(side.status())) {
      UNDERFOOT_SKIP(std::string(side.status().message()));
    }
    ASSERT_TRUE(side.ok()) << side.status();
    side_ = *std::move(side);
    ASSERT_TRUE(side_->monitor.Start().ok());
    others_ = ChangesByOthers::Start(*side_);
    const char* events = std::getenv("UNDERFOOT_EVENTS");
    if (events != nullptr) events_ = std::strtoull(events, nullptr, 10);
  }

  bool memfd() const { return GetParam().backing == Backing::kMemfd; }
  bool Precious(uint64_t page) const { return memfd() && page % 2 == 0; }
  Mmu& mmu() { return side_->mmu; }

  void Breach(const std::string& what) {
    const absl::MutexLock lock(&mutex_);
    if (breach_.empty()) breach_ = what;
    squad_.Stop();
  }

  uint64_t Read(Reader& reader, uint64_t page) {
    uint64_t word = 0;
    const absl::Status done =
        side_->access.Read(reader, side_->GpaAt(page), std::as_writable_bytes(std::span(&word, 1)));
    if (!done.ok()) Breach(std::string(done.message()));
    return word;
  }
  void Write(Reader& reader, uint64_t page, uint64_t word) {
    const absl::Status done =
        side_->access.Write(reader, side_->GpaAt(page), std::as_bytes(std::span(&word, 1)));
    if (!done.ok()) Breach(std::string(done.message()));
  }

  void Verify(uint64_t page, uint64_t found, Note& note) {
    checks_.Add();
    if (found == note.stamp && !note.zero_seen) return;
    if (found == 0 && !Precious(page)) {
      if (!note.zero_seen) zeroes_.Add();
      note.zero_seen = true;
      return;
    }
    if (found == 0 && note.stamp == 0) return;
    Breach("page " + std::to_string(page) + ": found " + std::to_string(found) + ", the last was " +
           std::to_string(note.stamp) + (note.zero_seen ? ", then zeroes" : ""));
  }

  // Owns every third page. Those of foreigners it also touches directly, as a guest does; a page
  // that hooks may mprotect only through a section.
  void AddOwner(uint64_t first) {
    squad_.Add([this, first](Random& random) {
      Reader reader(mmu().readers());
      std::array<Note, kPages> notes;
      for (uint64_t stamp = 1; !squad_.Stopped(); ++stamp) {
        const uint64_t page = first + 3 * random.Below((kPages - first + 2) / 3);
        const bool directly = page >= kHookedPages && random.Chance(1, 2);
        Note& note = notes[page];
        Verify(page, directly ? side_->Load(page) : Read(reader, page), note);
        std::this_thread::yield();  // there may be more threads than CPUs
        if (random.Chance(1, 3)) continue;
        note = {.stamp = stamp, .zero_seen = false};
        directly ? side_->Store(page, stamp) : Write(reader, page, stamp);
      }
    });
  }

  // I1 and I2 as the kernel sees them, inside a section.
  bool AgreesWithKernel(const std::byte* data, Access access, std::optional<Pfn> pfn = {}) {
    const PagemapEntry entry = side_->pagemap.Read(HvaOf(data));
    strict_checks_.Add();
    return entry.present && (access == Access::kRead || !entry.uffd_wp) &&
           entry.pfn == pfn.value_or(entry.pfn);
  }
  // After it: only another process may take a page from it.
  void Went(uint64_t page) {
    if (others_ != nullptr && others_->Include(side_->Pages(page))) return taken_.Add();
    Breach("page " + std::to_string(page) + " went while a section was open on it" +
           (others_ == nullptr
                ? "; the kernel has no records here that would show whether the host took it"
                : ""));
  }

  void AddStrictReader() {
    squad_.Add([this](Random& random) {
      Reader reader(mmu().readers());
      while (!squad_.Stopped()) {
        const uint64_t i = random.Below(kHookedPages);
        const Access access = random.Chance(1, 2) ? Access::kRead : Access::kWrite;
        bool agrees = true;
        if (const TranslatedPage page = mmu().Translate(reader, side_->GpaAt(i), access)) {
          agrees = AgreesWithKernel(page.data(), access, page.pfn());
        } else {
          static_cast<void>(mmu().faults().FaultIn(reader, side_->GfnAt(i), access));
        }
        if (!agrees) Went(i);
        std::this_thread::yield();
      }
    });
  }

  void AddCacheUser(PfnCache& cache) {
    squad_.Add([this, &cache](Random&) {
      Reader reader(mmu().readers());
      while (!squad_.Stopped()) {
        bool agrees = true;
        if (const CacheSection section = cache.Check(reader)) {
          agrees = AgreesWithKernel(section.data(), Access::kWrite);
        } else if (cache.Refresh(reader) == RefreshOutcome::kFailed) {
          Breach("the cached page cannot be brought in");
        }
        if (!agrees) Went(kCachedPage);
        std::this_thread::yield();
      }
    });
  }

  absl::Status MoveByHook(Random& random) {
    const uint64_t page = random.Below(kPages);
    const HvaRange range = side_->Pages(page, std::min(random.Between(1, 8), kPages - page));
    switch (random.Below(5)) {
      case 0:
        return hooked::WriteProtect(side_->uffd, range);
      case 1:
        if (page >= kHookedPages) return absl::OkStatus();
        return hooked::Protection(side_->Pages(page), PROT_READ).status();
      case 2:
        if (!memfd() || Precious(page)) return absl::OkStatus();
        return hooked::PunchHole(side_->memory->fd(), side_->GpaAt(page).value, kPageSize);
      case 3:
        if (!memfd() || Precious(page)) return absl::OkStatus();
        return hooked::Madvise(side_->Pages(page), MADV_REMOVE);
      default:
        return hooked::Madvise(range, MADV_DONTNEED);
    }
  }

  void AddHookChurn() {
    squad_.Add([this](Random& random) {
      while (!squad_.Stopped()) {
        const absl::Status moved = MoveByHook(random);
        // Unavailable is EAGAIN, each time that the call was repeated: the removals of other threads
        // were under way. Churn declines such an operation too.
        if (!moved.ok() && !absl::IsUnavailable(moved)) Breach(std::string(moved.message()));
        (moved.ok() ? moves_ : declined_).Add();
        LetOwnersGetOn();
      }
    });
  }

  // While a removal is under way nothing can be mapped: in a closed loop of them no fault of
  // anybody would end.
  void LetOwnersGetOn() {
    const uint64_t checks = checks_.Get();
    static_cast<void>(WaitUntil([&] { return checks_.Get() != checks || squad_.Stopped(); },
                                std::chrono::milliseconds(1)));
  }

  void AddForeigner() {
    squad_.Add([this](Random& random) {
      while (!squad_.Stopped()) {
        const uint64_t page = random.Between(kHookedPages, kPages - 1);
        const HvaRange range = side_->Pages(page, std::min(random.Between(1, 4), kPages - page));
        if (ForeignMadvise(range, MADV_DONTNEED) != 0) Breach("a raw madvise failed");
        foreign_moves_.Add();
        LetOwnersGetOn();
        if (events_ != 0 && side_->monitor.Stats().removes >= events_) squad_.Stop();
      }
    });
  }

  bool OraclesSawEnough() const {
    return checks_.Get() > 1000 && zeroes_.Get() > 5 && strict_checks_.Get() > 100 &&
           moves_.Get() > 50 && foreign_moves_.Get() > 50;
  }

  void ExpectNothingWrong() {
    Auditor auditor(mmu(), side_->pagemap,
                    {.removals = side_->removals,
                     .monitor = side_->monitor,
                     .kernel = others_ == nullptr ? nullptr : &others_->notifier(),
                     .foreign_changes = others_ == nullptr ? nullptr : &others_->changes(),
                     .backing = side_->memory->backing()},
                    {side_->GfnAt(0), side_->GfnAt(kPages)}, Seed());
    auditor.Sweep();
    const MmuStats mmu_stats = mmu().Stats();
    const UffdStats uffd = side_->monitor.Stats();
    std::printf(
        "%lu events: %lu checks, 0 expected wrong, %lu strict checks, %lu times zeroes, %lu hooked "
        "(%lu declined) and %lu foreign moves, %lu faults, reordered %lu, lost copies repaired "
        "%lu, EAGAIN %lu, "
        "merged %lu, audited %lu, taken by the host %lu\n",
        uffd.removes, checks_.Get(), strict_checks_.Get(), zeroes_.Get(), moves_.Get(),
        declined_.Get(), foreign_moves_.Get(), TotalFaults(uffd), uffd.reordered,
        uffd.lost_copies_repaired, uffd.eagain, uffd.merged, auditor.Stats().checks, taken_.Get());
    if (events_ != 0) {
      EXPECT_GE(uffd.removes, events_) << "the time was up; give more";
      EXPECT_GT(uffd.reordered, 0u) << "nothing was read in another order; give more events";
    }
    const absl::MutexLock lock(&mutex_);
    EXPECT_EQ(breach_, "");
    EXPECT_EQ(auditor.Stats().unexplained, 0u);
    EXPECT_EQ(auditor.Stats().unobserved, 0u);
    EXPECT_EQ(mmu_stats.notifier.begins, mmu_stats.notifier.ends);
    EXPECT_EQ(mmu_stats.notifier.stray_ends, 0u);
  }

  static constexpr uint64_t kCachedPage = 1;

  std::unique_ptr<MemorySide> side_;
  std::unique_ptr<ChangesByOthers> others_;
  Squad squad_;
  uint64_t events_ = 0;
  Counter checks_;
  Counter strict_checks_;
  Counter zeroes_;
  Counter moves_;
  Counter declined_;
  Counter foreign_moves_;
  Counter taken_;
  absl::Mutex mutex_;
  std::string breach_ ABSL_GUARDED_BY(mutex_);
};

TEST_P(MemoryTortureTest, NoPageIsEverWrong) {
  PfnCache cache(mmu(), "torture");
  Reader reader(mmu().readers());
  ASSERT_TRUE(cache.Activate(reader, side_->GpaAt(kCachedPage), kPageSize, Access::kWrite).ok());
  AddOwner(0);
  AddOwner(1);
  AddOwner(2);
  AddStrictReader();
  AddCacheUser(cache);
  AddHookChurn();
  AddForeigner();
  EXPECT_TRUE(squad_.Run([this] { return OraclesSawEnough(); }));
  cache.Deactivate();
  ExpectNothingWrong();
}

std::string NameOf(const ::testing::TestParamInfo<Torture>& info) {
  return std::string(BackingName(info.param.backing)) +
         (info.param.settle_ms == 0 ? "WithoutSettling" : "") +
         (info.param.handlers == 1 ? "" : std::to_string(info.param.handlers) + "Handlers");
}

INSTANTIATE_TEST_SUITE_P(
    Memory, MemoryTortureTest,
    ::testing::Values(Torture{Backing::kAnon, 100}, Torture{Backing::kAnon, 0},
                      Torture{Backing::kMemfd, 100}, Torture{Backing::kMemfd, 0},
                      Torture{Backing::kAnon, 100, 2}, Torture{Backing::kAnon, 0, 2},
                      Torture{Backing::kMemfd, 100, 2}, Torture{Backing::kMemfd, 0, 2},
                      Torture{Backing::kAnon, 100, 4}, Torture{Backing::kMemfd, 100, 4}),
    NameOf);

}  // namespace
}  // namespace underfoot::testing
