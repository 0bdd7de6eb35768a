#include "mmu/translate.h"

#include <optional>

#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {

TranslatedPage Translate(const MemslotTable& memslots, Stage2& stage2, Reader& reader, Gpa gpa,
                         Access access) {
  const Gfn gfn = GfnOf(gpa);
  rcu::ReadScope rcu;
  // The slot stands for the leaf below, though it may be dying by then: another slot gets these
  // gfns only when this read section is over (MemslotTable::WaitForOldWalks), and a dying slot's
  // readers are waited for after its leaves have gone, so the look-up after the announcement finds
  // none.
  const Memslot* slot = memslots.Current().Find(gfn);
  if (slot == nullptr) return {};
  const Hva page = slot->HvaOf(gfn);
  UNDERFOOT_SYNC_POINT("translate-before-section");
  for (;;) {
    Section section(reader, ReaderKey::Pack(PageRangeOf(page)));
    section.CountAsOther();
    // The section before the root (P3).
    const std::optional<Stage2::Leaf> leaf = stage2.Lookup(gfn);
    if (!leaf.has_value() || !leaf->pte.Grants(access)) return {};
    const Access marked = UNDERFOOT_MUTANT("translate-forgets-dirty") ? Access::kRead : access;
    if (!stage2.MarkUsed(gfn, *leaf, marked)) continue;
    const uint64_t page_in_leaf = gfn - EntryRange(gfn, leaf->level).begin;
    return {std::move(section), page + OffsetInPage(gpa), leaf->pte.pfn() + page_in_leaf};
  }
}

}  // namespace underfoot
