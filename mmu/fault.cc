#include "mmu/fault.h"

#include <sched.h>

#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/stage2.h"

namespace underfoot {
namespace {

constexpr FaultResult Stolen() { return {FaultOutcome::kAgain, Pte(), {}}; }

}  // namespace

FaultResult FaultHandler::HandleFault(const Reader& reader, Gfn gfn, Access access,
                                      FaultContext* context) {
  Install install(parts_, reader, gfn);
  if (install.slot() == nullptr) return {FaultOutcome::kNoMemslot, Pte(), {}};
  if (!install.slot()->Grants(access)) return {FaultOutcome::kReadOnly, Pte(), {}};
  UNDERFOOT_SYNC_POINT("fault-before-claim");
  const ClaimResult claim = install.Claim(gfn, access);
  switch (claim.outcome) {
    case ClaimOutcome::kPresent:
      return UsePresent(gfn, access);
    case ClaimOutcome::kBusy:
    case ClaimOutcome::kTable:
      return {FaultOutcome::kBusy, claim.pte, {}};
    case ClaimOutcome::kClaimed:
      break;
  }
  return Fill(install, gfn, access, context);
}

// The access itself, as on hardware.
FaultResult FaultHandler::UsePresent(Gfn gfn, Access access) {
  rcu::ReadScope rcu;
  const std::optional<Stage2::Leaf> leaf = parts_.stage2.Use(gfn, access);
  if (!leaf.has_value()) return {FaultOutcome::kAgain, Pte(), {}};
  return {FaultOutcome::kPresent, leaf->pte.WithPfn(leaf->PfnOf(gfn)), {}};
}

FaultResult FaultHandler::Fill(Install& install, Gfn gfn, Access access, FaultContext* context) {
  UNDERFOOT_SYNC_POINT("fault-claimed");
  const InstallCheck check = install.Check({gfn, gfn + 1});
  if (check.bracket.has_value()) return {FaultOutcome::kBlocked, Pte(), *check.bracket};
  if (!check.clear()) return Stolen();
  UNDERFOOT_SYNC_POINT("fault-before-page-in");
  const PageInResult in = source_.PageIn(install.slot()->HvaOf(gfn), access, context);
  UNDERFOOT_SYNC_POINT("fault-after-page-in");
  switch (in.outcome) {
    case PageInOutcome::kAgain:
      return {FaultOutcome::kAgain, Pte(), {}, true};
    case PageInOutcome::kRemovalPending:
      return {FaultOutcome::kRemovalPending, Pte(), {}};
    case PageInOutcome::kFailed:
      // A bracket that has begun since may have moved the mapping away for a moment. That bracket
      // has stolen the claim.
      if (!install.GiveBack(gfn)) return Stolen();
      return {FaultOutcome::kFailed, Pte(), {}};
    case PageInOutcome::kPresent:
      break;
  }
  const Pte leaf = install.LeafOf(in, access);
  if (!install.Publish(gfn, leaf)) return Stolen();
  return {FaultOutcome::kMapped, leaf, {}};
}

FaultInResult FaultHandler::FaultIn(const Reader& reader, Gfn gfn, Access access) {
  for (PageInRetries retries(page_in_tries_);;) {
    const FaultResult result = HandleFault(reader, gfn, access);
    switch (result.outcome) {
      case FaultOutcome::kMapped:
      case FaultOutcome::kPresent:
        return {FaultInOutcome::kMapped, result.pte};
      case FaultOutcome::kRemovalPending:
        return {FaultInOutcome::kRemovalPending, Pte()};
      case FaultOutcome::kNoMemslot:
        return {FaultInOutcome::kNoMemslot, Pte()};
      case FaultOutcome::kReadOnly:
        return {FaultInOutcome::kReadOnly, Pte()};
      case FaultOutcome::kFailed:
        return {FaultInOutcome::kFailed, Pte()};
      case FaultOutcome::kBlocked:
        parts_.in_flight.WaitForEnd(result.bracket);
        break;
      case FaultOutcome::kBusy:
        sched_yield();
        break;
      case FaultOutcome::kAgain:
        if (!result.source_is_busy) {
          sched_yield();
        } else if (!retries.Pause()) {
          return {FaultInOutcome::kAgain, Pte()};
        }
        break;
    }
  }
}

}  // namespace underfoot
