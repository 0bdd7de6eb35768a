// The table of advices, against the kernel that runs.

#include "vmm/hooks/advice.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <set>

#include "tests/hooks/recorded_changes.h"
#include "tests/support/skip.h"
#include "vmm/hooks/calls.h"
#include "vmm/ram/pagemap.h"

namespace underfoot::testing {
namespace {

using hooks::AdviceEffect;
using hooks::AdviceRule;

static_assert(hooks::RuleOf(4711).effect == AdviceEffect::kDropsAll);
static_assert(hooks::RuleOf(MADV_DONTNEED).raises_event);
static_assert(!hooks::RuleOf(MADV_PAGEOUT).raises_event);

// These take a frame away from the whole machine.
bool Poisons(int advice) { return advice == MADV_HWPOISON || advice == newer::kMadvSoftOffline; }

int RawMadvise(HvaRange range, int advice) {
  return static_cast<int>(syscall(SYS_madvise, range.begin.value, range.size(), advice));
}

TEST(AdviceTest, EachAdviceHasOneRule) {
  std::set<int> seen;
  for (const AdviceRule& rule : hooks::kAdviceRules) {
    EXPECT_TRUE(seen.insert(rule.advice).second) << rule.name;
  }
}

TEST(AdviceTest, AnAdviceThatIsNotReportedLeavesEachPageInItsFrame) {
  const absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  ASSERT_TRUE(pagemap.ok()) << pagemap.status();
  int tried = 0;
  for (const AdviceRule& rule : hooks::kAdviceRules) {
    if (rule.effect != AdviceEffect::kNothing || Poisons(rule.advice)) continue;
    RecordedChanges recorded(2);
    recorded.Word(1) = 11;
    const PagemapEntry before = pagemap->Read(HvaOf(recorded.At(1)));
    if (RawMadvise(recorded.Pages(0, 2), rule.advice) != 0) continue;  // not of this kernel
    const PagemapEntry after = pagemap->Read(HvaOf(recorded.At(1)));
    EXPECT_TRUE(after.present) << rule.name;
    EXPECT_EQ(after.pfn, before.pfn) << rule.name;
    EXPECT_EQ(recorded.Word(1), 11u) << rule.name;
    ++tried;
  }
  EXPECT_GT(tried, 10);
}

TEST(AdviceTest, EachAdviceIsReportedByItsRule) {
  for (const AdviceRule& rule : hooks::kAdviceRules) {
    if (Poisons(rule.advice)) continue;
    RecordedChanges recorded(4);
    recorded.Word(1) = 11;
    static_cast<void>(hooks::Madvise(recorded.At(1), 2 * kPageSize, rule.advice));
    const std::vector<underfoot_change> changes = recorded.Take();
    ASSERT_EQ(changes.size(), rule.effect == AdviceEffect::kNothing ? 0u : 1u) << rule.name;
    if (changes.empty()) continue;
    EXPECT_EQ(changes[0].call, UNDERFOOT_MADVISE);
    EXPECT_EQ(changes[0].argument, rule.advice);
    EXPECT_EQ(RecordedChanges::RangeOf(changes[0]), recorded.Pages(1, 2));
  }
}

}  // namespace
}  // namespace underfoot::testing
