// What each advice of madvise(2) does to the pages of a range, at the call.
//
//   kNothing   no page goes, none changes its frame: no bracket
//   kDrops     pages go, change their frames, or may go from now on: a bracket
//
// An advice that this table does not know is taken to drop pages. An advice that may bring pages in
// by a fault is kNothing whatever else it does: a bracket over a page-in would wait for itself (R2
// in vmm/README.md), and what it changes is for the kernel's notifier to tell.
//
// After: mm/madvise.c, mm/ksm.c and mm/khugepaged.c in Linux 6.18.
// Thread safety: constants.

#ifndef UNDERFOOT_VMM_HOOKS_ADVICE_H_
#define UNDERFOOT_VMM_HOOKS_ADVICE_H_

#include <sys/mman.h>

#include <array>
#include <cstdint>

#include "vmm/hooks/newer_kernels.h"

namespace underfoot::hooks {

enum class AdviceEffect : uint8_t { kNothing, kDrops };

struct AdviceRule {
  int advice;
  AdviceEffect effect;
  bool raises_event;  // UFFD_EVENT_REMOVE, where the range is registered with it
  const char* name;
};

inline constexpr std::array kAdviceRules = {
    AdviceRule{MADV_NORMAL, AdviceEffect::kNothing, false, "NORMAL"},
    AdviceRule{MADV_RANDOM, AdviceEffect::kNothing, false, "RANDOM"},
    AdviceRule{MADV_SEQUENTIAL, AdviceEffect::kNothing, false, "SEQUENTIAL"},
    // Reads ahead and swaps in: nothing was mapped that it could replace.
    AdviceRule{MADV_WILLNEED, AdviceEffect::kNothing, false, "WILLNEED"},
    AdviceRule{MADV_DONTNEED, AdviceEffect::kDrops, true, "DONTNEED"},
    // Lazily: the frame stays until memory is short, and nobody tells when that is.
    AdviceRule{MADV_FREE, AdviceEffect::kDrops, true, "FREE"},
    AdviceRule{MADV_REMOVE, AdviceEffect::kDrops, true, "REMOVE"},
    AdviceRule{MADV_DONTFORK, AdviceEffect::kNothing, false, "DONTFORK"},
    AdviceRule{MADV_DOFORK, AdviceEffect::kNothing, false, "DOFORK"},
    // Only marks the range: ksmd merges later, and the kernel's notifier tells.
    AdviceRule{MADV_MERGEABLE, AdviceEffect::kNothing, false, "MERGEABLE"},
    // Gives every merged page a frame of its own before it returns.
    AdviceRule{MADV_UNMERGEABLE, AdviceEffect::kDrops, false, "UNMERGEABLE"},
    AdviceRule{MADV_HUGEPAGE, AdviceEffect::kNothing, false, "HUGEPAGE"},
    AdviceRule{MADV_NOHUGEPAGE, AdviceEffect::kNothing, false, "NOHUGEPAGE"},
    AdviceRule{MADV_DONTDUMP, AdviceEffect::kNothing, false, "DONTDUMP"},
    AdviceRule{MADV_DODUMP, AdviceEffect::kNothing, false, "DODUMP"},
    AdviceRule{MADV_WIPEONFORK, AdviceEffect::kNothing, false, "WIPEONFORK"},
    AdviceRule{MADV_KEEPONFORK, AdviceEffect::kNothing, false, "KEEPONFORK"},
    // Clears accessed bits; the kernel does not tell its own secondary MMUs either.
    AdviceRule{MADV_COLD, AdviceEffect::kNothing, false, "COLD"},
    AdviceRule{MADV_PAGEOUT, AdviceEffect::kDrops, false, "PAGEOUT"},
    // These two fault pages in. The second may copy a shared page on the way.
    AdviceRule{MADV_POPULATE_READ, AdviceEffect::kNothing, false, "POPULATE_READ"},
    AdviceRule{MADV_POPULATE_WRITE, AdviceEffect::kNothing, false, "POPULATE_WRITE"},
    AdviceRule{MADV_DONTNEED_LOCKED, AdviceEffect::kDrops, true, "DONTNEED_LOCKED"},
    AdviceRule{newer::kMadvCollapse, AdviceEffect::kDrops, false, "COLLAPSE"},
    // These two fault an absent page in before they take it.
    AdviceRule{MADV_HWPOISON, AdviceEffect::kNothing, false, "HWPOISON"},
    AdviceRule{newer::kMadvSoftOffline, AdviceEffect::kNothing, false, "SOFT_OFFLINE"},
    AdviceRule{newer::kMadvGuardInstall, AdviceEffect::kDrops, false, "GUARD_INSTALL"},
    AdviceRule{newer::kMadvGuardRemove, AdviceEffect::kNothing, false, "GUARD_REMOVE"},
};

constexpr AdviceRule RuleOf(int advice) {
  for (const AdviceRule& rule : kAdviceRules) {
    if (rule.advice == advice) return rule;
  }
  return {advice, AdviceEffect::kDrops, false, "unknown"};
}

// Gives pages back: what HostChange::kDiscard means, and not a hint about their use.
constexpr bool Discards(int advice) {
  return RuleOf(advice).raises_event || advice == newer::kMadvGuardInstall;
}

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_ADVICE_H_
