// The installation of translations (P1): what the fault handlers have in common, and the check that
// a pfn cache makes too.
//
//   memslot -> Claim -> Check: a bracket in flight? the same slot? -> page-in -> Publish
//                         |                                                        |
//                         v give the claim back                                    v stolen:
//                                                                                    start again
//
// An Install holds the claims that a thread has made in one table, each with the tag of its reader.
// The destructor gives back the claims that are left, also when an exception leaves the scope. The
// caller holds nothing else during the page-in.
//
// Check comes after the claims; Begin puts its range in flight before it walks the entries. So
// either Check finds the range in flight, or the walk finds the claims.
//
// Thread safety: an Install belongs to one thread, outside of sections and of RCU read sections.
// CheckInstall: any thread.
// Errors: Claim throws std::bad_alloc if there is no memory for a table; the claims made so far
// are given back when the scope is left.
// Invariants: I1, I5, I9.

#ifndef UNDERFOOT_MMU_INSTALL_H_
#define UNDERFOOT_MMU_INSTALL_H_

#include <bitset>
#include <optional>

#include "mmu/base/types.h"
#include "mmu/in_flight_ranges.h"
#include "mmu/memslot.h"
#include "mmu/page_source.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/private_table.h"
#include "mmu/stage2/stage2.h"

namespace underfoot {

// The parts of an Mmu that an installation uses.
struct InstallParts {
  const MemslotTable& memslots;
  const InFlightRanges& in_flight;
  Stage2& stage2;
};

struct InstallCheck {
  std::optional<InFlightRanges::Bracket> bracket;  // overlaps, and was in flight
  bool slot_is_current = true;

  bool clear() const { return !bracket.has_value() && slot_is_current; }
};

// Whether a translation of `range` may be looked up and published: no overlapping bracket is in
// flight, and `slot`, if it is given, is still as it was looked up.
// The caller has claimed the entries or listed its cache before (P1.2, P4.3).
InstallCheck CheckInstall(const MemslotTable& memslots, const InFlightRanges& in_flight,
                          HvaRange range, const std::optional<Memslot>& slot);

class Install {
 public:
  // Looks up the slot of `gfn`. The claims will be of entries of the table of `level` that covers
  // `gfn`.
  Install(const InstallParts& parts, const Reader& reader, Gfn gfn, unsigned level = 0);
  ~Install();
  Install(const Install&) = delete;
  Install& operator=(const Install&) = delete;

  // nullptr: the gfn lies in no memslot, and nothing may be claimed.
  const Memslot* slot() const { return slot_.has_value() ? &*slot_ : nullptr; }

  ClaimResult Claim(Gfn gfn, Access access);  // P1.1
  bool Holds(Gfn gfn) const { return claims_[IndexOf(gfn, level_)]; }
  InstallCheck Check(GfnRange gfns) const {  // P1.2
    return CheckInstall(parts_.memslots, parts_.in_flight, slot_->HvasOf(gfns), slot_);
  }

  // The leaf for a page of the slot that the source has brought in for `access`.
  Pte LeafOf(const PageInResult& in, Access access) const;

  // Each ends the claim of `gfn`, which the caller holds (P1.4). False: it was stolen.
  [[nodiscard]] bool Publish(Gfn gfn, Pte leaf);
  [[nodiscard]] bool PublishTable(Gfn gfn, PrivateTable table);
  bool GiveBack(Gfn gfn);

 private:
  const InstallParts& parts_;
  const OwnerTag tag_;
  const unsigned level_;
  const Gfn table_begin_;  // the first gfn that the table covers
  const std::optional<Memslot> slot_;
  std::bitset<kEntries> claims_;  // by the index in the table
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_INSTALL_H_
