// The effect that each advice of madvise(2) has on the pages of a range, during the call.
//
//   kNothing   no page is removed and no page changes its frame: no bracket
//   kDrops     pages are removed, change their frames, or may be removed later: a bracket
//   kDropsAll  the same, also for the pages of the file that is mapped there: a bracket over every
//              mapping of these pages
//
// An advice that is missing from this table is treated as one that drops pages. An advice that may
// fault pages in is always kNothing: the page-in would wait for the End of the bracket, and End
// comes only after the call (mmu/README.md, "What the caller must do"). If such an advice changes a
// page, only the kernel notifier reports it.
//
// After: mm/madvise.c, mm/ksm.c and mm/khugepaged.c in Linux 6.18.
// Thread safety: constants.

#ifndef UNDERFOOT_VMM_HOOKS_ADVICE_H_
#define UNDERFOOT_VMM_HOOKS_ADVICE_H_

#include <sys/mman.h>

#include <array>
#include <cstdint>

#include "vmm/base/newer_kernels.h"

namespace underfoot::hooks {

enum class AdviceEffect : uint8_t { kNothing, kDrops, kDropsAll };

struct AdviceRule {
  int advice;
  AdviceEffect effect;
  // The call raises UFFD_EVENT_REMOVE if the range is registered with userfaultfd.
  bool raises_event;
  const char* name;
};

inline constexpr std::array kAdviceRules = {
    AdviceRule{MADV_NORMAL, AdviceEffect::kNothing, false, "NORMAL"},
    AdviceRule{MADV_RANDOM, AdviceEffect::kNothing, false, "RANDOM"},
    AdviceRule{MADV_SEQUENTIAL, AdviceEffect::kNothing, false, "SEQUENTIAL"},
    // Reads ahead and swaps in: the pages were not mapped, so no translation of them exists.
    AdviceRule{MADV_WILLNEED, AdviceEffect::kNothing, false, "WILLNEED"},
    AdviceRule{MADV_DONTNEED, AdviceEffect::kDrops, true, "DONTNEED"},
    // Frees lazily: the frame stays until memory is short, and no source reports when it is freed.
    AdviceRule{MADV_FREE, AdviceEffect::kDrops, true, "FREE"},
    AdviceRule{MADV_REMOVE, AdviceEffect::kDropsAll, true, "REMOVE"},
    AdviceRule{MADV_DONTFORK, AdviceEffect::kNothing, false, "DONTFORK"},
    AdviceRule{MADV_DOFORK, AdviceEffect::kNothing, false, "DOFORK"},
    // Only marks the range: ksmd merges pages later, and the kernel notifier reports that.
    AdviceRule{MADV_MERGEABLE, AdviceEffect::kNothing, false, "MERGEABLE"},
    // Gives each merged page its own frame before it returns.
    AdviceRule{MADV_UNMERGEABLE, AdviceEffect::kDrops, false, "UNMERGEABLE"},
    AdviceRule{MADV_HUGEPAGE, AdviceEffect::kNothing, false, "HUGEPAGE"},
    AdviceRule{MADV_NOHUGEPAGE, AdviceEffect::kNothing, false, "NOHUGEPAGE"},
    AdviceRule{MADV_DONTDUMP, AdviceEffect::kNothing, false, "DONTDUMP"},
    AdviceRule{MADV_DODUMP, AdviceEffect::kNothing, false, "DODUMP"},
    AdviceRule{MADV_WIPEONFORK, AdviceEffect::kNothing, false, "WIPEONFORK"},
    AdviceRule{MADV_KEEPONFORK, AdviceEffect::kNothing, false, "KEEPONFORK"},
    // Clears accessed bits; the kernel does not report that to its own secondary MMUs either.
    AdviceRule{MADV_COLD, AdviceEffect::kNothing, false, "COLD"},
    AdviceRule{MADV_PAGEOUT, AdviceEffect::kDropsAll, false, "PAGEOUT"},
    // These two fault pages in. The second may also copy a shared page.
    AdviceRule{MADV_POPULATE_READ, AdviceEffect::kNothing, false, "POPULATE_READ"},
    AdviceRule{MADV_POPULATE_WRITE, AdviceEffect::kNothing, false, "POPULATE_WRITE"},
    AdviceRule{MADV_DONTNEED_LOCKED, AdviceEffect::kDrops, true, "DONTNEED_LOCKED"},
    AdviceRule{newer::kMadvCollapse, AdviceEffect::kDropsAll, false, "COLLAPSE"},
    // These two fault an absent page in before they remove it.
    AdviceRule{MADV_HWPOISON, AdviceEffect::kNothing, false, "HWPOISON"},
    AdviceRule{newer::kMadvSoftOffline, AdviceEffect::kNothing, false, "SOFT_OFFLINE"},
    AdviceRule{newer::kMadvGuardInstall, AdviceEffect::kDrops, false, "GUARD_INSTALL"},
    AdviceRule{newer::kMadvGuardRemove, AdviceEffect::kNothing, false, "GUARD_REMOVE"},
};

constexpr AdviceRule RuleOf(int advice) {
  for (const AdviceRule& rule : kAdviceRules) {
    if (rule.advice == advice) return rule;
  }
  return {advice, AdviceEffect::kDropsAll, false, "unknown"};
}

// Whether the advice gives pages back (HostChange::kDiscard), as opposed to a hint about their use.
constexpr bool Discards(int advice) {
  return RuleOf(advice).raises_event || advice == newer::kMadvGuardInstall;
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_ADVICE_H_
