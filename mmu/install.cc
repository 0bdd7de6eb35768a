#include "mmu/install.h"

#include <utility>

#include "mmu/base/check.h"

namespace underfoot {

InstallCheck CheckInstall(const MemslotTable& memslots, const InFlightRanges& in_flight,
                          HvaRange range, const std::optional<Memslot>& slot) {
  InstallCheck check;
  check.bracket = in_flight.FindOverlap(range);
  check.slot_is_current = !slot.has_value() || memslots.IsCurrent(*slot);
  return check;
}

Install::Install(const InstallParts& parts, const Reader& reader, Gfn gfn, unsigned level)
    : parts_(parts),
      tag_(reader.tag()),
      level_(level),
      table_begin_(EntryRange(gfn, level + 1).begin),
      slot_(parts.memslots.Find(gfn)) {
  UNDERFOOT_CHECK(!reader.InSection(), "a fault inside a read section", gfn.value, tag_);
}

Install::~Install() {
  for (unsigned i = 0; claims_.any(); ++i) {
    if (claims_[i]) GiveBack(table_begin_ + i * PagesAt(level_));
  }
}

ClaimResult Install::Claim(Gfn gfn, Access access) {
  const ClaimResult result = parts_.stage2.TryClaim(gfn, level_, access, tag_);
  if (result.outcome == ClaimOutcome::kClaimed) claims_.set(IndexOf(gfn, level_));
  return result;
}

Pte Install::LeafOf(const PageInResult& in, Access access) const {
  UNDERFOOT_CHECK(access == Access::kRead || in.granted == Access::kWrite,
                  "the page source granted less than was asked for", slot_->hva.value,
                  in.pfn.value);
  const Pte leaf = Pte::Leaf(in.pfn, slot_->flags.read_only ? Access::kRead : in.granted);
  return access == Access::kWrite ? leaf.Dirty() : leaf;
}

bool Install::Publish(Gfn gfn, Pte leaf) {
  claims_.reset(IndexOf(gfn, level_));
  return parts_.stage2.Publish(gfn, tag_, leaf);
}

bool Install::PublishTable(Gfn gfn, PrivateTable table) {
  claims_.reset(IndexOf(gfn, level_));
  return parts_.stage2.PublishTable(gfn, tag_, std::move(table));
}

bool Install::GiveBack(Gfn gfn) {
  claims_.reset(IndexOf(gfn, level_));
  return parts_.stage2.Abandon(gfn, tag_);
}

}  // namespace underfoot
