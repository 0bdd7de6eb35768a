#include "mmu/fault.h"

#include <sched.h>

#include <optional>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {
namespace {

// Not an outcome for callers: the claim was stolen, start again.
constexpr FaultResult Stolen() { return {FaultOutcome::kAgain, Pte(), {}}; }

}  // namespace

bool FaultHandler::SlotIsCurrent(Gfn gfn, uint64_t uid) const {
  if (UNDERFOOT_MUTANT("install-ignores-generation")) return true;
  rcu::ReadScope rcu;
  const Memslot* now = memslots_.CurrentAfterAnnouncement().Find(gfn);
  return now != nullptr && now->uid == uid;
}

FaultResult FaultHandler::HandleFault(const Reader& reader, Gfn gfn, Access access) {
  UNDERFOOT_CHECK(!reader.InSection(), "a fault inside a read section", gfn.value, reader.tag());
  Memslot slot;
  {
    rcu::ReadScope rcu;
    const Memslot* found = memslots_.Current().Find(gfn);
    if (found == nullptr) return {FaultOutcome::kNoMemslot, Pte(), {}};
    slot = *found;
  }
  if (slot.flags.read_only && access == Access::kWrite) return {FaultOutcome::kReadOnly, Pte(), {}};
  UNDERFOOT_SYNC_POINT("fault-before-claim");
  const ClaimResult claim = stage2_.TryClaim(gfn, 0, access, reader.tag());
  switch (claim.outcome) {
    case ClaimOutcome::kPresent:
      return UsePresent(gfn, access);
    case ClaimOutcome::kBusy:
    case ClaimOutcome::kTable:
      return {FaultOutcome::kBusy, claim.pte, {}};
    case ClaimOutcome::kClaimed:
      break;
  }
  return FinishClaim(reader, gfn, access, slot);
}

FaultResult FaultHandler::UsePresent(Gfn gfn, Access access) {
  rcu::ReadScope rcu;
  const std::optional<Stage2::Leaf> leaf = stage2_.Lookup(gfn);
  if (!leaf.has_value() || !leaf->pte.Grants(access) || !stage2_.MarkUsed(gfn, *leaf, access)) {
    return {FaultOutcome::kAgain, Pte(), {}};
  }
  const uint64_t page_in_leaf = gfn - EntryRange(gfn, leaf->level).begin;
  return {FaultOutcome::kPresent, leaf->pte.WithPfn(leaf->pte.pfn() + page_in_leaf), {}};
}

FaultResult FaultHandler::FinishClaim(const Reader& reader, Gfn gfn, Access access,
                                      const Memslot& slot) {
  const auto give_back = [&](FaultResult result) {
    stage2_.Abandon(gfn, reader.tag());
    return result;
  };
  UNDERFOOT_SYNC_POINT("fault-claimed");
  const Hva page = slot.HvaOf(gfn);
  // The claim first, this second; Begin does it the other way round, so one of the two sees the
  // other.
  if (const auto bracket = in_flight_.FindOverlap(PageRangeOf(page))) {
    return give_back({FaultOutcome::kBlocked, Pte(), *bracket});
  }
  if (!SlotIsCurrent(gfn, slot.uid)) return give_back(Stolen());
  UNDERFOOT_SYNC_POINT("fault-before-page-in");
  const PageInResult in = source_.PageIn(page, access);
  UNDERFOOT_SYNC_POINT("fault-after-page-in");
  switch (in.outcome) {
    case PageInOutcome::kAgain:
      return give_back({FaultOutcome::kAgain, Pte(), {}});
    case PageInOutcome::kSettling:
      return give_back({FaultOutcome::kSettling, Pte(), {}});
    case PageInOutcome::kFailed:
      // A mapping may be away under a bracket that has begun since: then it has the claim.
      if (!stage2_.Abandon(gfn, reader.tag()) && !UNDERFOOT_MUTANT("fault-fails-under-a-bracket")) {
        return Stolen();
      }
      return {FaultOutcome::kFailed, Pte(), {}};
    case PageInOutcome::kPresent:
      break;
  }
  const Pte leaf = LeafOf(in, slot, access);
  if (!stage2_.Publish(gfn, reader.tag(), leaf)) return Stolen();
  return {FaultOutcome::kMapped, leaf, {}};
}

Pte LeafOf(const PageInResult& in, const Memslot& slot, Access access) {
  UNDERFOOT_CHECK(access == Access::kRead || in.granted == Access::kWrite,
                  "the page source granted less than was asked for", slot.hva.value, in.pfn.value);
  const Pte leaf = Pte::Leaf(in.pfn, slot.flags.read_only ? Access::kRead : in.granted);
  const bool dirty = access == Access::kWrite && !UNDERFOOT_MUTANT("fault-forgets-dirty");
  return dirty ? leaf.Dirty() : leaf;
}

FaultResult FaultHandler::FaultIn(const Reader& reader, Gfn gfn, Access access) {
  for (;;) {
    const FaultResult result = HandleFault(reader, gfn, access);
    switch (result.outcome) {
      case FaultOutcome::kBlocked:
        in_flight_.WaitForEnd(result.bracket);
        break;
      case FaultOutcome::kBusy:
      case FaultOutcome::kAgain:
        sched_yield();
        break;
      case FaultOutcome::kMapped:
      case FaultOutcome::kPresent:
      case FaultOutcome::kSettling:
      case FaultOutcome::kNoMemslot:
      case FaultOutcome::kReadOnly:
      case FaultOutcome::kFailed:
        return result;
    }
  }
}

}  // namespace underfoot
