#include "mmu/range_fault.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <optional>

#include "mmu/check.h"
#include "mmu/mutant.h"
#include "mmu/private_table.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {
namespace {

// The largest block that begins at `gfn` and ends within `end`.
unsigned LargestLevel(Gfn gfn, Gfn end) {
  unsigned level = kMaxLeafLevel;
  while (level > 0 && (EntryRange(gfn, level).begin != gfn || end - gfn < PagesAt(level))) --level;
  return level;
}

// The leaves as one, if their frames are consecutive and aligned and they grant the same.
std::optional<Pte> AsOneLeaf(std::span<const Pte, kEntries> leaves) {
  const Pte first = leaves.front();
  if (first.pfn().value % kEntries != 0) return std::nullopt;
  for (unsigned i = 1; i < kEntries; ++i) {
    if (leaves[i] != first.WithPfn(first.pfn() + i)) return std::nullopt;
  }
  return first;
}

}  // namespace

RangeFaultResult RangeFaultHandler::FaultIn(const Reader& reader, GfnRange gfns, Access access) {
  UNDERFOOT_CHECK(!reader.InSection(), "a fault inside a read section", gfns.begin.value,
                  reader.tag());
  Gfn gfn = gfns.begin;
  while (gfn < gfns.end) {
    unsigned level = LargestLevel(gfn, gfns.end);
    const Gfn page_end = std::min(EntryRange(gfn, 1).end, gfns.end);
    BlockOutcome outcome = level == 0 ? BlockOutcome::kPages : BlockOutcome::kAgain;
    while (outcome == BlockOutcome::kAgain || outcome == BlockOutcome::kSmaller) {
      outcome = FaultInBlock(reader, EntryRange(gfn, level), level, access);
      if (outcome == BlockOutcome::kSmaller && --level == 0) outcome = BlockOutcome::kPages;
    }
    if (outcome == BlockOutcome::kDone) {
      gfn = EntryRange(gfn, level).end;
      continue;
    }
    const RangeFaultResult pages = FaultInPages(reader, {gfn, page_end}, access);
    if (pages.outcome != FaultOutcome::kMapped) return pages;
    gfn = page_end;
  }
  return {FaultOutcome::kMapped, gfn};
}

RangeFaultResult RangeFaultHandler::FaultInPages(const Reader& reader, GfnRange gfns,
                                                 Access access) {
  for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += 1) {
    const FaultOutcome outcome = faults_.FaultIn(reader, gfn, access).outcome;
    switch (outcome) {
      case FaultOutcome::kMapped:
      case FaultOutcome::kPresent:
      case FaultOutcome::kSettling:
        break;
      case FaultOutcome::kNoMemslot:
      case FaultOutcome::kReadOnly:
      case FaultOutcome::kFailed:
      case FaultOutcome::kBlocked:
      case FaultOutcome::kBusy:
      case FaultOutcome::kAgain:
        return {outcome, gfn};
    }
  }
  return {FaultOutcome::kMapped, gfns.end};
}

RangeFaultHandler::BlockOutcome RangeFaultHandler::FaultInBlock(const Reader& reader,
                                                                GfnRange block, unsigned level,
                                                                Access access) {
  Memslot slot;
  {
    rcu::ReadScope rcu;
    const Memslot* found = memslots_.Current().Find(block.begin);
    if (found == nullptr) return BlockOutcome::kPages;  // which says what is wrong
    slot = *found;
  }
  if (!slot.gfns.Contains(block)) return BlockOutcome::kSmaller;
  if (slot.flags.read_only && access == Access::kWrite) return BlockOutcome::kPages;
  const ClaimResult claim = stage2_.TryClaim(block.begin, level, access, reader.tag());
  switch (claim.outcome) {
    case ClaimOutcome::kClaimed:
      break;
    case ClaimOutcome::kPresent:
      return faults_.UsePresent(block.begin, access).outcome == FaultOutcome::kPresent
                 ? BlockOutcome::kDone
                 : BlockOutcome::kAgain;
    case ClaimOutcome::kTable:
      return level > 1 ? BlockOutcome::kSmaller : BlockOutcome::kPages;
    case ClaimOutcome::kBusy:
      sched_yield();
      return BlockOutcome::kAgain;
  }
  if (!claim.pte.empty()) {
    // A block that is there and does not grant the access: the host may give the pages of a private
    // mapping other frames as they are written, so they are relaxed one by one.
    stage2_.Abandon(block.begin, reader.tag());
    return BlockOutcome::kPages;
  }
  return FillBlock(reader, slot, block, level, access);
}

RangeFaultHandler::BlockOutcome RangeFaultHandler::FillBlock(const Reader& reader,
                                                             const Memslot& slot, GfnRange block,
                                                             unsigned level, Access access) {
  const auto give_back = [&](BlockOutcome outcome) {
    stage2_.Abandon(block.begin, reader.tag());
    return outcome;
  };
  const HvaRange hvas{slot.HvaOf(block.begin), slot.HvaOf(block.begin) + block.size() * kPageSize};
  UNDERFOOT_SYNC_POINT("block-claimed");
  // As for one page: the claim first, this second (P1).
  if (const auto bracket = in_flight_.FindOverlap(hvas);
      bracket && !UNDERFOOT_MUTANT("block-ignores-in-flight")) {
    stage2_.Abandon(block.begin, reader.tag());
    in_flight_.WaitForEnd(*bracket);
    return BlockOutcome::kAgain;
  }
  if (!faults_.SlotIsCurrent(block.begin, slot.uid)) return give_back(BlockOutcome::kAgain);
  UNDERFOOT_SYNC_POINT("block-before-page-in");
  const auto leaf_of = [&](const PageInResult& in) { return LeafOf(in, slot, access); };
  const PageInResult first = source_.PageIn(hvas.begin, access);
  if (first.outcome != PageInOutcome::kPresent) return give_back(BlockOutcome::kPages);
  // The host's block may lie across ours: then its pages are asked for one by one.
  const bool aligned =
      hvas.begin.value % (PagesAt(level) * kPageSize) == 0 && first.pfn.value % PagesAt(level) == 0;
  if (first.level >= level && (aligned || UNDERFOOT_MUTANT("block-ignores-alignment"))) {
    UNDERFOOT_SYNC_POINT("block-after-page-in");
    return stage2_.Publish(block.begin, reader.tag(), leaf_of(first)) ? BlockOutcome::kDone
                                                                      : BlockOutcome::kAgain;
  }
  if (level > 1) return give_back(BlockOutcome::kSmaller);
  std::array<Pte, kEntries> leaves;
  leaves[0] = leaf_of(first);
  for (unsigned i = 1; i < kEntries; ++i) {
    const PageInResult in = source_.PageIn(hvas.begin + i * kPageSize, access);
    if (in.outcome != PageInOutcome::kPresent) return give_back(BlockOutcome::kPages);
    leaves[i] = leaf_of(in);
  }
  UNDERFOOT_SYNC_POINT("block-after-page-in");
  const std::optional<Pte> one = AsOneLeaf(leaves);
  const bool published = one.has_value() ? stage2_.Publish(block.begin, reader.tag(), *one)
                                         : stage2_.PublishTable(block.begin, reader.tag(),
                                                                MakePrivateTable(0, leaves));
  return published ? BlockOutcome::kDone : BlockOutcome::kAgain;
}

RangeFaultResult RangeFaultHandler::Collapse(const Reader& reader, Notifier& notifier, Gfn gfn,
                                             unsigned level, Access access) {
  const GfnRange block = EntryRange(gfn, level);
  HvaRange hvas;
  {
    rcu::ReadScope rcu;
    const Memslot* slot = memslots_.Current().Find(gfn);
    if (slot == nullptr || !slot->gfns.Contains(block)) {
      return {FaultOutcome::kNoMemslot, block.begin};
    }
    hvas = {slot->HvaOf(block.begin), slot->HvaOf(block.begin) + block.size() * kPageSize};
  }
  if (!UNDERFOOT_MUTANT("collapse-without-bracket")) {
    InvalidationScope bracket(notifier, {hvas, InvalidationKind::kUnmap});
  }
  return FaultIn(reader, block, access);
}

}  // namespace underfoot
