// Random sequences of hooked calls on a few pages, beside a plain model of their content, and of
// what may be translated.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>

#include "tests/memory/memory_test.h"
#include "tests/support/random.h"
#include "tests/support/seed.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/hooks/mm_hooks.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPages = 16;
constexpr int kSteps = 1500;

// What is known of one page. `away`: nothing is mapped there, its content is elsewhere.
struct Model {
  uint64_t word = 0;
  bool away = false;
  bool is_protected = false;
};

class MmHooksModelTest : public MemoryTest {
 protected:
  void TearDown() override {
    if (away_.end.value != 0) munmap(PointerOf(away_.begin), away_.size());
    MemoryTest::TearDown();
  }

  void Reserve() {
    void* const place = mmap(nullptr, kPages * kPageSize, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(place, MAP_FAILED);
    away_ = PageRangeOf(HvaOf(place), kPages);
  }
  HvaRange Away(uint64_t first, uint64_t count) const {
    return PageRangeOf(away_.begin + first * kPageSize, count);
  }

  template <class Take>
  bool All(uint64_t first, uint64_t count, const Take& take) const {
    for (uint64_t i = first; i < first + count; ++i) {
      if (!take(model_[i])) return false;
    }
    return true;
  }
  template <class Change>
  void Each(uint64_t first, uint64_t count, const Change& change) {
    for (uint64_t i = first; i < first + count; ++i) change(model_[i]);
  }

  void Lose(uint64_t first, uint64_t count) {
    Each(first, count, [](Model& page) { page.word = 0; });
  }

  absl::Status Drop(Random& random, uint64_t first, uint64_t count) {
    const HvaRange range = side().Pages(first, count);
    MmHooks& hooks = side().hooks;
    switch (random.Below(4)) {
      case 0:
        Lose(first, count);
        return hooks.Discard(range).status();
      case 1:
        if (!memfd()) Lose(first, count);
        return hooked::Madvise(range, MADV_DONTNEED);
      case 2:
        return hooked::Madvise(range, random.Below(2) == 0 ? MADV_PAGEOUT : MADV_COLD);
      default:
        if (memfd()) {
          Lose(first, count);
          return hooked::Madvise(range, MADV_REMOVE);
        }
        return hooked::WriteProtect(side().uffd, range);
    }
  }

  absl::Status MapOver(uint64_t first, uint64_t count) {
    if (!memfd()) Lose(first, count);
    Each(first, count, [](Model& page) { page.is_protected = false; });
    return HookedMapOver(side().Pages(first, count), PROT_READ | PROT_WRITE,
                         (memfd() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS) | MAP_NORESERVE,
                         side().memory->fd(), side().GpaAt(first).value);
  }

  absl::Status Protect(Random& random, uint64_t first, uint64_t count) {
    const bool take = random.Below(2) == 0;
    Each(first, count, [take](Model& page) { page.is_protected = take; });
    return hooked::Mprotect(side().Pages(first, count), take ? PROT_READ : PROT_READ | PROT_WRITE);
  }

  // Without this a new mapping of another thread, a sanitizer's for example, could come to the hole,
  // and be lost when the page comes back.
  static absl::Status CloseHole(Hva page) {
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (mmap(PointerOf(page), kPageSize, PROT_NONE, kFlags, -1, 0) != MAP_FAILED) {
      return absl::OkStatus();
    }
    return absl::ErrnoToStatus(errno, "closing the hole that a page has left");
  }

  // Moves page by page: a range of pages that were moved before is many mappings.
  absl::Status MoveOrReturn(uint64_t first, uint64_t count) {
    for (uint64_t i = first; i < first + count; ++i) {
      Model& page = model_[i];
      if (page.is_protected) continue;
      const absl::Status moved = page.away ? hooked::Mremap(Away(i, 1), side().PageAt(i))
                                           : hooked::Mremap(side().Pages(i), Away(i, 1).begin);
      if (!moved.ok()) return moved;
      if (absl::Status closed = CloseHole(page.away ? Away(i, 1).begin : side().PageAt(i));
          !closed.ok()) {
        return closed;
      }
      page.away = !page.away;
    }
    return absl::OkStatus();
  }

  absl::Status Step(Random& random) {
    const uint64_t first = random.Below(kPages);
    const uint64_t count = random.Between(1, std::min<uint64_t>(4, kPages - first));
    const bool here = All(first, count, [](const Model& page) { return !page.away; });
    const bool open = All(first, count, [](const Model& page) { return !page.is_protected; });
    const uint64_t what = random.Below(10);
    if (what == 0) return MoveOrReturn(first, count);
    if (!here) return absl::OkStatus();
    if (what == 1) return MapOver(first, count);
    if (what == 2) return Protect(random, first, count);
    if (!open) return absl::OkStatus();
    if (what < 6) return Drop(random, first, count);
    const uint64_t word = random.Below(2) == 0 ? 0 : random.Between(1, 1000);
    if (word != 0) {
      side().Store(first, word);
      model_[first].word = word;
    }
    static_cast<void>(side().Fault(first, word != 0 ? Access::kWrite : Access::kRead));
    return absl::OkStatus();
  }

  // No leaf of what is away or protected; of the rest none that the kernel contradicts.
  void Check(const std::string& when) {
    for (uint64_t i = 0; i < kPages; ++i) {
      const std::optional<Pte> leaf = side().LeafOf(i);
      if (model_[i].away || model_[i].is_protected) {
        ASSERT_FALSE(leaf.has_value()) << when << ", page " << i;
        ASSERT_NE(side().Fault(i, Access::kRead).outcome, FaultOutcome::kMapped) << when;
        continue;
      }
      const PagemapEntry entry = side().EntryOf(i);
      if (leaf.has_value()) {
        ++leaves_;
        // A fault that was resolved a moment ago may still be making its leaf.
        ASSERT_TRUE(entry.present) << when << ", page " << i;
        ASSERT_EQ(leaf->pfn(), entry.pfn) << when << ", page " << i;
      }
      ASSERT_EQ(side().Load(i), model_[i].word) << when << ", page " << i;
    }
  }

  HvaRange away_;
  std::array<Model, kPages> model_;
  uint64_t leaves_ = 0;
};

TEST_P(MmHooksModelTest, RandomCallsKeepContentAndTranslationsOfTheModel) {
  Reserve();
  StartMonitor();
  // The handler has its thread-local storage before the first hole.
  static_cast<void>(side().Load(kPages));
  Random random(Seed());
  for (int step = 0; step < kSteps; ++step) {
    const absl::Status done = Step(random);
    ASSERT_TRUE(done.ok()) << "step " << step << ": " << done;
    if (step % 8 == 7) {
      Check("after step " + std::to_string(step));
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(leaves_, 100u);
  for (uint64_t i = 0; i < kPages; ++i) {
    if (model_[i].away) {
      ASSERT_TRUE(hooked::Mremap(Away(i, 1), side().PageAt(i)).ok());
    }
    ASSERT_TRUE(hooked::Mprotect(side().Pages(i), PROT_READ | PROT_WRITE).ok());
    EXPECT_EQ(side().Load(i), model_[i].word) << i;
  }
  side().hooks.WaitForProtectionChange();
}

UNDERFOOT_FOR_BOTH_BACKINGS(MmHooksModelTest);

}  // namespace
}  // namespace underfoot::testing
