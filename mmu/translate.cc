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
  const MemslotSet* set = &memslots.Current();
  for (;;) {
    const Memslot* slot = set->Find(gfn);
    if (slot == nullptr) return {};
    const Hva page = slot->HvaOf(gfn);
    UNDERFOOT_SYNC_POINT("translate-before-section");
    Section section(reader, ReaderKey::Pack(PageRangeOf(page)));
    section.CountAsOther();
    // The section before the set is looked at again and before the root: an update that publishes
    // later waits for the section, an earlier one is seen here (P3).
    const MemslotSet* now = &memslots.CurrentAfterAnnouncement();
    if (now != set && !UNDERFOOT_MUTANT("translate-keeps-old-set")) {
      set = now;
      continue;
    }
    const std::optional<Stage2::Leaf> leaf = stage2.Lookup(gfn);
    if (!leaf.has_value() || !leaf->pte.Grants(access)) return {};
    const Access marked = UNDERFOOT_MUTANT("translate-forgets-dirty") ? Access::kRead : access;
    if (!stage2.MarkUsed(gfn, *leaf, marked)) continue;
    const uint64_t page_in_leaf = gfn - EntryRange(gfn, leaf->level).begin;
    return {std::move(section), page + OffsetInPage(gpa), leaf->pte.pfn() + page_in_leaf};
  }
}

}  // namespace underfoot
