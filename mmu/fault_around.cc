#include "mmu/fault_around.h"

#include <array>

#include "mmu/base/sync_point.h"

namespace underfoot {
namespace {

constexpr FaultAroundResult kNothing{{FaultOutcome::kAgain, Pte(), {}}, 0};

}  // namespace

FaultAroundResult FaultAroundHandler::HandleFault(const Reader& reader, Gfn gfn, GfnRange window,
                                                  Access access, FaultContext* context) {
  FaultAroundResult result = InstallWindow(reader, {window, gfn, access, context});
  if (result.fault.outcome != FaultOutcome::kMapped) {
    result.fault = faults_.HandleFault(reader, gfn, access, context);
  }
  return result;
}

uint64_t FaultAroundHandler::BringIn(const Reader& reader, GfnRange window, FaultContext* context) {
  return InstallWindow(reader, {window, std::nullopt, Access::kRead, context}).around;
}

FaultAroundResult FaultAroundHandler::InstallWindow(const Reader& reader, Window window) {
  const Gfn first = window.faulting.value_or(window.gfns.begin);
  Install install(parts_, reader, first);
  if (install.slot() == nullptr || !install.slot()->Grants(window.access)) return kNothing;
  window.gfns = window.gfns.Intersect(EntryRange(first, 1)).Intersect(install.slot()->gfns);
  if (!window.gfns.Contains(first) || window.gfns.size() == 1) return kNothing;
  if (!Claim(install, window)) return kNothing;
  UNDERFOOT_SYNC_POINT("around-claimed");
  // One search over the whole window proves as much as a search for each page. If it finds a
  // bracket, HandleFault repeats the fault for the faulting page alone.
  if (!install.Check(window.gfns).clear()) return kNothing;
  std::array<PageInResult, kMaxPages> in;
  UNDERFOOT_SYNC_POINT("around-before-page-in");
  PageIn(install, window, in);
  UNDERFOOT_SYNC_POINT("around-after-page-in");
  return Publish(install, window, in);
}

// Returns false, with nothing claimed, if the faulting page cannot be claimed. A claim for reading
// takes only empty entries, because any leaf grants a read.
bool FaultAroundHandler::Claim(Install& install, const Window& window) {
  const auto claim = [&](Gfn gfn) {
    return install.Claim(gfn, Access::kRead).outcome == ClaimOutcome::kClaimed;
  };
  if (window.faulting.has_value() && !claim(*window.faulting)) return false;
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end; gfn += 1) {
    if (gfn != window.faulting) static_cast<void>(claim(gfn));
  }
  return true;
}

// Brings in the claimed pages only. Other threads may be working on the rest.
void FaultAroundHandler::PageIn(const Install& install, const Window& window,
                                std::span<PageInResult> in) {
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end;) {
    Gfn end = gfn;
    while (end < window.gfns.end && install.Holds(end)) end += 1;
    if (end == gfn) {
      gfn += 1;
      continue;
    }
    source_.PageInSome(install.slot()->HvasOf({gfn, end}),
                       in.subspan(gfn - window.gfns.begin, end - gfn), window.context);
    gfn = end;
  }
}

FaultAroundResult FaultAroundHandler::Publish(Install& install, const Window& window,
                                              std::span<const PageInResult> in) {
  FaultAroundResult result = kNothing;
  for (Gfn gfn = window.gfns.begin; gfn < window.gfns.end; gfn += 1) {
    if (!install.Holds(gfn)) continue;
    const PageInResult& page = in[gfn - window.gfns.begin];
    const bool itself = gfn == window.faulting;
    const Access needed = itself ? window.access : Access::kRead;
    if (page.outcome != PageInOutcome::kPresent ||
        (needed == Access::kWrite && page.granted != Access::kWrite)) {
      continue;  // the end of the Install gives the claim back
    }
    const Pte used = install.LeafOf(page, needed);
    // A neighbour has not been accessed yet, so its leaf starts old.
    const Pte leaf = itself ? used : used.Old();
    if (!install.Publish(gfn, leaf)) continue;
    if (itself) {
      result.fault = {FaultOutcome::kMapped, leaf, {}};
    } else {
      ++result.around;
    }
  }
  return result;
}

}  // namespace underfoot
