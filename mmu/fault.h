// The fault path: from a gfn without translation to a published leaf (P1), with nothing held while
// the page is brought in.
//
//   memslot -> claim the entry -> bracket in flight? -> page-in -> publish
//                  |                  |                              |
//                  | busy             | give the claim back,         | stolen by an invalidation:
//                  v                  v report the bracket           v from the start
//
// A fault is never retried because of an unrelated range, and at most once for each overlapping
// bracket that begins after its claim.
//
// Thread safety: any thread, each with its own Reader; never inside a section, a bracket or a read
// scope. Invariants: I1, I8, I9, I11.

#ifndef UNDERFOOT_MMU_FAULT_H_
#define UNDERFOOT_MMU_FAULT_H_

#include <cstdint>

#include "mmu/invalidation.h"
#include "mmu/memslot.h"
#include "mmu/page_source.h"
#include "mmu/reader.h"
#include "mmu/stage2.h"
#include "mmu/types.h"

namespace underfoot {

enum class [[nodiscard]] FaultOutcome{
    kMapped,     // this call published the leaf
    kPresent,    // a leaf granted the access already
    kBlocked,    // an invalidation of the page is in flight: wait for `bracket`
    kBusy,       // another thread is bringing the page in
    kAgain,      // lost to an invalidation, or the page source asks for it: try again
    kSettling,   // use the page by hva, keep no translation
    kNoMemslot,  // the gfn lies in no memslot
    kReadOnly,   // a write to a read-only memslot
    kFailed,     // the page source cannot bring it in, and no bracket that began since explains it
};

struct FaultResult {
  FaultOutcome outcome;
  Pte pte;  // kMapped, kPresent: the leaf, with the pfn of this very page
  InFlightRanges::Bracket bracket;
};

class FaultHandler {
 public:
  FaultHandler(const MemslotTable& memslots, Stage2& stage2, const InFlightRanges& in_flight,
               PageSource& source)
      : memslots_(memslots), stage2_(stage2), in_flight_(in_flight), source_(source) {}

  // Never waits for a bracket or another installer; it sleeps only inside the page source,
  // or for a grace period when it has helped to unlink tables and too many are retired.
  FaultResult HandleFault(const Reader& reader, Gfn gfn, Access access);

  // As HandleFault, but waits out kBlocked, kBusy and kAgain.
  FaultResult FaultIn(const Reader& reader, Gfn gfn, Access access);

  // Whether `gfn` still lies in the slot that was looked up. After the claim: an update that
  // publishes later finds the claim when it removes the slot's entries.
  bool SlotIsCurrent(Gfn gfn, uint64_t uid) const;

  // The access itself, as on hardware: it makes a leaf that grants it young, and a write makes it
  // dirty. kPresent, or kAgain when the leaf is gone.
  FaultResult UsePresent(Gfn gfn, Access access);

 private:
  FaultResult FinishClaim(const Reader& reader, Gfn gfn, Access access, const Memslot& slot);

  const MemslotTable& memslots_;
  Stage2& stage2_;
  const InFlightRanges& in_flight_;
  PageSource& source_;
};

// The leaf for a page of `slot` that the source has brought in for `access`.
Pte LeafOf(const PageInResult& in, const Memslot& slot, Access access);

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_FAULT_H_
