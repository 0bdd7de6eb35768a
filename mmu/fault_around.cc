#include "mmu/fault_around.h"

#include <array>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {

FaultAroundResult FaultAroundHandler::HandleFault(const Reader& reader, Gfn gfn, GfnRange window,
                                                  Access access) {
  UNDERFOOT_CHECK(!reader.InSection(), "a fault inside a read section", gfn.value, reader.tag());
  FaultAroundResult result{{FaultOutcome::kAgain, Pte(), {}}, 0};
  Window around;
  if (MakeWindow(gfn, window, access, around) && Claim(reader, around)) {
    UNDERFOOT_SYNC_POINT("around-claimed");
    // The claims first, this second; Begin does it the other way round. One look over the whole
    // window says no more than a look at each page, and where it says yes the page itself is asked
    // about once more below.
    const bool blocked = in_flight_.FindOverlap(around.hvas()).has_value() &&
                         !UNDERFOOT_MUTANT("around-ignores-in-flight");
    if (blocked || !faults_.SlotIsCurrent(gfn, around.slot.uid)) {
      GiveBack(reader, around);
    } else {
      std::array<PageInResult, kMaxPages> in;
      UNDERFOOT_SYNC_POINT("around-before-page-in");
      PageIn(around, in);
      UNDERFOOT_SYNC_POINT("around-after-page-in");
      result = Publish(reader, around, in);
    }
  }
  if (result.fault.outcome != FaultOutcome::kMapped) {
    result.fault = faults_.HandleFault(reader, gfn, access);
  }
  return result;
}

// False: there is nothing around the page.
bool FaultAroundHandler::MakeWindow(Gfn gfn, GfnRange wanted, Access access, Window& window) const {
  {
    rcu::ReadScope rcu;
    const Memslot* found = memslots_.Current().Find(gfn);
    if (found == nullptr || (found->flags.read_only && access == Access::kWrite)) return false;
    window.slot = *found;
  }
  window.gfns = wanted.Intersect(EntryRange(gfn, 1));
  if (!UNDERFOOT_MUTANT("around-crosses-slots")) {
    window.gfns = window.gfns.Intersect(window.slot.gfns);
  }
  if (!window.gfns.Contains(gfn)) return false;
  window.faulting = gfn;
  window.access = access;
  return window.gfns.size() > 1;
}

// False: the page itself is not the caller's to bring in, and nothing is claimed. A claim for
// reading takes holes only: any leaf grants that.
bool FaultAroundHandler::Claim(const Reader& reader, Window& window) {
  const auto claim = [&](Gfn gfn) {
    const ClaimResult result = stage2_.TryClaim(gfn, 0, Access::kRead, reader.tag());
    if (result.outcome != ClaimOutcome::kClaimed) return false;
    window.claimed.set(gfn - window.gfns.begin);
    return true;
  };
  if (!claim(window.faulting)) return false;
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end; gfn += 1) {
    if (gfn != window.faulting) static_cast<void>(claim(gfn));
  }
  return true;
}

void FaultAroundHandler::GiveBack(const Reader& reader, const Window& window) {
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end; gfn += 1) {
    if (window.Has(gfn)) stage2_.Abandon(gfn, reader.tag());
  }
}

// What is not claimed may be in other hands, and is not asked for.
void FaultAroundHandler::PageIn(const Window& window, std::span<PageInResult> in) {
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end;) {
    Gfn end = gfn;
    while (end < window.gfns.end && window.Has(end)) end += 1;
    if (end == gfn) {
      gfn += 1;
      continue;
    }
    const HvaRange run{window.slot.HvaOf(gfn), window.slot.HvaOf(end)};
    source_.PageInSome(run, in.subspan(gfn - window.gfns.begin, end - gfn));
    gfn = end;
  }
}

FaultAroundResult FaultAroundHandler::Publish(const Reader& reader, const Window& window,
                                              std::span<const PageInResult> in) {
  FaultAroundResult result{{FaultOutcome::kAgain, Pte(), {}}, 0};
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end; gfn += 1) {
    if (!window.Has(gfn)) continue;
    const PageInResult& page = in[gfn - window.gfns.begin];
    const bool itself = gfn == window.faulting;
    const Access needed = itself ? window.access : Access::kRead;
    if (page.outcome != PageInOutcome::kPresent ||
        (needed == Access::kWrite && page.granted != Access::kWrite)) {
      if (!UNDERFOOT_MUTANT("around-keeps-claims")) stage2_.Abandon(gfn, reader.tag());
      continue;
    }
    const Pte used = LeafOf(page, window.slot, needed);
    const Pte leaf = itself ? used : used.Old();  // nobody has used a neighbour yet
    bool published = stage2_.Publish(gfn, reader.tag(), leaf);
    if (!published && UNDERFOOT_MUTANT("around-insists")) {
      static_cast<void>(stage2_.TryClaim(gfn, 0, Access::kRead, reader.tag()));
      published = stage2_.Publish(gfn, reader.tag(), leaf);
    }
    if (!published) continue;
    if (itself) {
      result.fault = {FaultOutcome::kMapped, leaf, {}};
    } else {
      ++result.around;
    }
  }
  return result;
}

}  // namespace underfoot
