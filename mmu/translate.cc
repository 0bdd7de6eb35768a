#include "mmu/translate.h"

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

}  // namespace underfoot
