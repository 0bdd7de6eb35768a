// A fault that brings its neighbours along: what hands a fault to its handler and back costs many
// times what a page costs, so pages that will be touched next are brought in with it.
//
//   claim what is empty in the window -> bracket in flight over the window? -> one page-in
//          |                                  | give all back                    |
//          |                                  v                                  v
//          +-- the page itself is not empty: a fault of one page         publish each by itself
//
// Only the page itself matters to whoever faulted: a neighbour that is claimed, present, or stolen
// meanwhile is left as it is, nobody waits for it, and no write protection is lifted for it. The
// look for a bracket comes after all claims (P1), so it stands for each of them. One thread has
// several claims with one tag here, and never two of one entry.
//
// Thread safety: as FaultHandler. Invariants: I1, I5, I9.

#ifndef UNDERFOOT_MMU_FAULT_AROUND_H_
#define UNDERFOOT_MMU_FAULT_AROUND_H_

#include <bitset>
#include <cstdint>
#include <span>

#include "mmu/fault.h"
#include "mmu/invalidation.h"
#include "mmu/memslot.h"
#include "mmu/page_source.h"
#include "mmu/pte.h"
#include "mmu/reader.h"
#include "mmu/stage2.h"
#include "mmu/types.h"

namespace underfoot {

struct FaultAroundResult {
  FaultResult fault;    // of the page itself, as FaultHandler::HandleFault
  uint64_t around = 0;  // leaves published beside it
};

class FaultAroundHandler {
 public:
  // A window lies within one table, so that it makes no table but the one that the page needs.
  static constexpr uint64_t kMaxPages = kEntries;

  FaultAroundHandler(const MemslotTable& memslots, Stage2& stage2, const InFlightRanges& in_flight,
                     PageSource& source, FaultHandler& faults)
      : memslots_(memslots),
        stage2_(stage2),
        in_flight_(in_flight),
        source_(source),
        faults_(faults) {}

  // Waits for nobody, as FaultHandler::HandleFault. Of `window`, the part that shares memslot and
  // table with `gfn`.
  FaultAroundResult HandleFault(const Reader& reader, Gfn gfn, GfnRange window, Access access);

 private:
  // What has been claimed: the i-th is gfns.begin + i.
  struct Window {
    Memslot slot;
    GfnRange gfns;
    Gfn faulting;
    Access access = Access::kRead;
    std::bitset<kMaxPages> claimed;

    bool Has(Gfn gfn) const { return claimed[gfn - gfns.begin]; }
    HvaRange hvas() const { return {slot.HvaOf(gfns.begin), slot.HvaOf(gfns.end)}; }
  };

  bool MakeWindow(Gfn gfn, GfnRange wanted, Access access, Window& window) const;
  bool Claim(const Reader& reader, Window& window);
  void GiveBack(const Reader& reader, const Window& window);
  void PageIn(const Window& window, std::span<PageInResult> in);
  FaultAroundResult Publish(const Reader& reader, const Window& window,
                            std::span<const PageInResult> in);

  const MemslotTable& memslots_;
  Stage2& stage2_;
  const InFlightRanges& in_flight_;
  PageSource& source_;
  FaultHandler& faults_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_FAULT_AROUND_H_
