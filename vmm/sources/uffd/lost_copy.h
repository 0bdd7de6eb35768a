// Whether a leaf belongs to a page that the host has taken without a report: the evidence of a lost
// copy. A page is lost if its leaf is the same before and after a look at the page, the look
// found the page gone or in another frame, no event has been read that is not applied yet, and no
// bracket explains the difference. A bracket explains it if it was in flight at the first look at
// the leaf, or has begun since: a whole bracket may have taken the page and put the same leaf back.
//
//   a handler                          a bracket, and a fault behind it
//   count of brackets, none in flight
//   leaf: frame F
//                                      Begin takes the leaf, the page goes, End
//   look: the page is gone
//                                      the page comes back in frame F, and so does the leaf
//   leaf: frame F, but the count has moved: no loss
//
// An event that another handler has read explains it too. EventReads is asked after the look and
// before the last look at the leaf:
//
//   a handler                          another handler              a removal by another process
//   leaf: frame F
//                                      reads its event
//                                                                   the zap
//   look: the page is gone
//   EventReads::None(): no; no loss
//                                      Begin takes the leaf
//
// If None() says yes, that Begin is over: the leaf has gone, or the count of brackets has moved.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_LOST_COPY_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_LOST_COPY_H_

#include <cstdint>
#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "vmm/evidence/event_reads.h"
#include "vmm/ram/pagemap.h"

namespace underfoot {

enum class [[nodiscard]] LostCopy : uint8_t{
    kNo,  // no leaf, or the page is what the leaf says
    kLost,
    // They differ, and brackets begin or events are read all the time, so the reason cannot be
    // found.
    kUnclear,
};

// `look()` asks the kernel for the page of `gfn`, which is at `page`. Without real frame numbers
// only a page that is gone differs from its leaf.
template <class Look>
LostCopy FindLostCopy(Mmu& mmu, const EventReads& reads, Gfn gfn, HvaRange page, bool real_pfns,
                      const Look& look) {
  constexpr int kLooks = 3;  // each is a microsecond, and a bracket anywhere in RAM spoils it
  const auto frame = [&]() -> std::optional<Pfn> {
    rcu::ReadScope rcu;
    const auto leaf = mmu.stage2().Lookup(gfn);
    return leaf.has_value() ? std::optional(leaf->PfnOf(gfn)) : std::nullopt;
  };
  for (int i = 0; i < kLooks; ++i) {
    // The count first: a bracket that it includes is in the set by then, or is over.
    const uint64_t begins = mmu.notifier().begun();
    const bool explained = mmu.in_flight().FindOverlap(page).has_value();
    const std::optional<Pfn> before = frame();
    if (!before.has_value()) return LostCopy::kNo;
    const PagemapEntry entry = look();
    const bool gone = !entry.present && !entry.swapped;
    const bool elsewhere = entry.present && real_pfns && entry.pfn != *before;
    if (!gone && !elsewhere) return LostCopy::kNo;
    if (!reads.None()) continue;
    if (!explained && frame() == before && mmu.notifier().begun() == begins) {
      return LostCopy::kLost;
    }
  }
  return LostCopy::kUnclear;
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_LOST_COPY_H_
