// Which kinds of churn a machine can do: what its backing allows, and what the host offers.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CHURN_LIMITS_H_
#define UNDERFOOT_VMM_CHURN_LIMITS_H_

#include <map>
#include <string>

#include "vmm/backing.h"
#include "vmm/churn_kind.h"

namespace underfoot {

struct ChurnLimits {
  Backing backing = Backing::kAnon;
  // Of kinds that the host does not offer: why not, and what to do.
  std::map<ChurnKind, std::string> unavailable = {};

  // Without removal events nobody sees what this kind does.
  void SpareRemovalEvents() {
    unavailable[ChurnKind::kForeign] =
        "is seen by nobody with --uffd-events off; leave one of the two out";
  }
  // The kinds that would wipe out what a sampler of writes reads.
  void SpareWriteProtection() {
    for (const ChurnKind kind : {ChurnKind::kWp, ChurnKind::kSplit, ChurnKind::kCollapse}) {
      unavailable[kind] =
          "changes the protection by which --working-set sees what is written in private memory; "
          "leave one of the two out, or take --backing memfd";
    }
  }

  // Empty: the kind can be done; else why not, and what to do.
  [[nodiscard]] std::string WhyNot(ChurnKind kind) const {
    const ChurnKindInfo& info = InfoOf(kind);
    if (info.backing == BackingNeed::kMemfd && backing != Backing::kMemfd) {
      return "needs a memfd; start the machine with --backing memfd";
    }
    if (info.backing == BackingNeed::kAnon && backing != Backing::kAnon) {
      return "needs private memory; start the machine with --backing anon";
    }
    const auto found = unavailable.find(kind);
    return found == unavailable.end() ? "" : found->second;
  }
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_LIMITS_H_
