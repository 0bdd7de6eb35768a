#include "mmu/translate.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"

namespace underfoot {

TranslatedPage Translate(const MemslotTable& memslots, Stage2& stage2, Reader& reader, Gpa gpa,
                         Access access) {
  const Gfn gfn = GfnOf(gpa);
  rcu::ReadScope rcu;
  // The slot found here is right for the leaf found below, even if the slot dies in between.
  // Another slot gets these gfns only after this RCU read section has ended
  // (MemslotTable::WaitForOldWalks). An update waits for the readers of a dying slot after its
  // leaves have gone, so the look-up that follows the announcement finds no leaf of it.
  const Memslot* slot = memslots.Current().Find(gfn);
  if (slot == nullptr) return {};
  const Hva page = slot->HvaOf(gfn);
  UNDERFOOT_SYNC_POINT("translate-before-section");
  Section section(reader, ReaderKey::Pack(PageRangeOf(page)));
  section.CountAsOther();
  // The section is entered before the root is read (P3.1 before P3.2).
  const std::optional<Stage2::Leaf> leaf = stage2.Use(gfn, access);
  if (!leaf.has_value()) return {};
  return {std::move(section), page + OffsetInPage(gpa), leaf->PfnOf(gfn)};
}

// The section was entered before the set of memslots and the root are read (P3.1 before P3.2). One RCU
// read section has all look-ups: a slot that is found is right for the leaf that is found after it, as
// above. The copies follow outside of it, since an RCU read section touches no guest memory.
size_t Translate(const MemslotTable& memslots, Stage2& stage2, const RangeSection& section,
                 std::span<PagePiece> pieces) {
  rcu::ReadScope rcu;
  UNDERFOOT_SYNC_POINT("range-section-entered");
  Stage2::Neighbours leaves(stage2);
  GfnRange announced;  // in the last memslot
  Hva hva;             // of its first frame
  size_t found = 0;
  for (PagePiece& piece : pieces) {
    const Gfn gfn = GfnOf(piece.gpa);
    if (!announced.Contains(gfn)) {
      const Memslot* const slot = memslots.Current().Find(gfn);
      if (slot == nullptr) break;
      const HvaRange hvas = slot->hvas().Intersect(section.announced());
      announced = slot->GfnsOf(hvas);
      hva = hvas.begin;
      if (!announced.Contains(gfn)) break;
    }
    if (!leaves.Use(gfn, piece.access)) break;
    piece.data = static_cast<std::byte*>(PointerOf(hva + (piece.gpa - GpaOf(announced.begin))));
    ++found;
  }
  return found;
}

uint64_t MarkUsed(const MemslotTable& memslots, Stage2& stage2, const RangeSection& section,
                  GfnRange gfns, Access access) {
  rcu::ReadScope rcu;
  UNDERFOOT_SYNC_POINT("range-section-entered");
  const Memslot* slot = memslots.Current().Find(gfns.begin);
  if (slot == nullptr) return 0;
  const GfnRange here{gfns.begin, std::min(gfns.end, slot->gfns.end)};
  if (!section.announced().Contains(slot->HvasOf(here))) return 0;
  return stage2.UseRange(here, access);
}

}  // namespace underfoot
