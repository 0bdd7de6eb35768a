// The kinds of churn that a machine can do: limited by its backing, and by what the host offers.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CONFIG_CHURN_LIMITS_H_
#define UNDERFOOT_VMM_CONFIG_CHURN_LIMITS_H_

#include <map>
#include <string>

#include "vmm/base/backing.h"
#include "vmm/config/churn_kind.h"

namespace underfoot {

struct ChurnLimits {
  Backing backing = Backing::kAnon;
  HugePages huge_pages = HugePages::kOff;
  // For each kind that the host does not offer: the reason, and the remedy.
  std::map<ChurnKind, std::string> unavailable = {};

  // Without removal events no source observes what this kind does.
  void SpareRemovalEvents() {
    unavailable[ChurnKind::kForeign] =
        "is reported by no source with --uffd-events off; leave one of the two out";
  }
  // Linux trusts all of its memory. What only it may give back must not be taken from it.
  void SpareLinux() {
    for (const ChurnKind kind : {ChurnKind::kDiscard, ChurnKind::kPunch, ChurnKind::kFree,
                                 ChurnKind::kMerge, ChurnKind::kForeign}) {
      unavailable[kind] =
          "erases content of pages, and Linux gives a page up only by its own word; take a kind "
          "that keeps the content, like pageout";
    }
  }
  // Excludes the kinds that would erase the write protection that the working-set sampler reads.
  void SpareWriteProtection() {
    for (const ChurnKind kind : {ChurnKind::kWp, ChurnKind::kSplit, ChurnKind::kCollapse}) {
      unavailable[kind] =
          "erases the record of writes that --working-set needs for private memory; leave one of "
          "the two out, or use --backing memfd";
    }
  }

  // Empty if the kind is possible; otherwise the reason why not, and the remedy.
  [[nodiscard]] std::string UnavailableReason(ChurnKind kind) const {
    const ChurnKindInfo& info = InfoOf(kind);
    if (info.backing == BackingNeed::kMemfd && backing != Backing::kMemfd) {
      return "needs a memfd; start the machine with --backing memfd";
    }
    if (info.backing == BackingNeed::kAnon && backing != Backing::kAnon) {
      return "needs private memory; start the machine with --backing anon";
    }
    if (IsHugetlb(huge_pages) && !info.not_on_hugetlb.empty()) {
      return std::string(info.not_on_hugetlb) + "; start the machine with --huge-pages thp or off";
    }
    const auto found = unavailable.find(kind);
    return found == unavailable.end() ? "" : found->second;
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONFIG_CHURN_LIMITS_H_
