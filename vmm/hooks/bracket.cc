#include "vmm/hooks/bracket.h"

#include <algorithm>

#include "mmu/mutant.h"

namespace underfoot::hooks {

Bracket::~Bracket() {
  for (unsigned i = 0; i < count_; ++i) Unpin(*pieces_[i].slot);
}

void Bracket::Add(HvaRange range) {
  for (unsigned i = 0; i < SlotCount(); ++i) {
    Slot* const slot = &SlotAt(i);
    if (!slot->hvas().Overlaps(range) || !TryPin(*slot)) continue;
    const HvaRange inside = RoundOutToPages(range).Intersect(slot->hvas());
    if (inside.empty()) {
      Unpin(*slot);  // it was another range's when first looked at
    } else {
      AddPinned(*slot, inside);
    }
  }
}

void Bracket::Add(const FileRange& part) {
  for (unsigned i = 0; i < SlotCount(); ++i) {
    Slot* const slot = &SlotAt(i);
    if (!TryPin(*slot)) continue;
    const HvaRange mapped = slot->HvaRangeOf(part);
    if (mapped.empty()) {
      Unpin(*slot);
    } else {
      AddPinned(*slot, mapped);
    }
  }
}

void Bracket::AddWithAliases(HvaRange range) {
  Add(range);
  const unsigned direct = count_;
  for (unsigned i = 0; i < direct; ++i) {
    const Slot& slot = *pieces_[i].slot;
    if (slot.has_file) Add(slot.FileRangeOf(RangeOf(pieces_[i])));
  }
}

HvaRange Bracket::RangeOf(const Piece& piece) {
  const Hva start = HvaOf(piece.change.start);
  return {start, start + piece.change.length};
}

Bracket::Piece* Bracket::LastOf(const Slot& slot) {
  for (unsigned i = count_; i > 0; --i) {
    if (pieces_[i - 1].slot == &slot) return &pieces_[i - 1];
  }
  return nullptr;
}

void Bracket::AddPinned(Slot& slot, HvaRange range) {
  Piece* const last = LastOf(slot);
  const HvaRange before = last == nullptr ? HvaRange{} : RangeOf(*last);
  const bool adjoins = range.begin <= before.end && before.begin <= range.end;
  const bool widen = last != nullptr && (adjoins || count_ >= kPrecise);
  if (widen) {
    range = {std::min(before.begin, range.begin), std::max(before.end, range.end)};
    Unpin(slot);
  }
  Piece& piece = widen ? *last : pieces_[count_++];
  piece = {&slot, {}};
  piece.change.start = PointerOf(range.begin);
  piece.change.length = range.size();
}

void Bracket::Begin(underfoot_call call, underfoot_effect effect, int argument) {
  for (unsigned i = 0; i < count_; ++i) {
    Piece& piece = pieces_[i];
    piece.change.call = call;
    piece.change.effect = effect;
    piece.change.argument = argument;
    piece.slot->range.begin(piece.slot->range.context, &piece.change);
  }
}

void Bracket::End(int error) {
  for (unsigned i = count_; i > 0; --i) {
    Piece& piece = pieces_[i - 1];
    if (error != 0 && UNDERFOOT_MUTANT("hook-failed-call-has-no-end")) continue;
    piece.change.error = error;
    piece.slot->range.end(piece.slot->range.context, &piece.change);
  }
}

}  // namespace underfoot::hooks
