#include "mmu/range_fault.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <optional>

#include "mmu/base/check.h"
#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/private_table.h"

namespace underfoot {
namespace {

// The largest block that begins at `gfn` and ends within `end`.
unsigned LargestLevel(Gfn gfn, Gfn end) {
  unsigned level = kMaxLeafLevel;
  while (level > 0 && (EntryRange(gfn, level).begin != gfn || end - gfn < PagesAt(level))) --level;
  return level;
}

// One leaf for all of `leaves` if their frames are consecutive and aligned and they grant the same
// access.
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
  Gfn gfn = gfns.begin;
  while (gfn < gfns.end) {
    if (!kGuestFrames.Contains(gfn)) return {FaultInOutcome::kNoMemslot, gfn};
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
    if (pages.outcome != FaultInOutcome::kMapped) return pages;
    gfn = page_end;
  }
  return {FaultInOutcome::kMapped, gfn};
}

RangeFaultResult RangeFaultHandler::FaultInPages(const Reader& reader, GfnRange gfns,
                                                 Access access) {
  for (Gfn gfn = gfns.begin; gfn < gfns.end; gfn += 1) {
    const FaultInOutcome outcome = faults_.FaultIn(reader, gfn, access).outcome;
    if (outcome != FaultInOutcome::kMapped && outcome != FaultInOutcome::kRemovalPending) {
      return {outcome, gfn};
    }
  }
  return {FaultInOutcome::kMapped, gfns.end};
}

RangeFaultHandler::BlockOutcome RangeFaultHandler::FaultInBlock(const Reader& reader,
                                                                GfnRange block, unsigned level,
                                                                Access access) {
  Install install(parts_, reader, block.begin, level);
  if (install.slot() == nullptr) return BlockOutcome::kPages;  // which returns the error
  if (!install.slot()->gfns.Contains(block)) return BlockOutcome::kSmaller;
  if (!install.slot()->Grants(access)) return BlockOutcome::kPages;
  const ClaimResult claim = install.Claim(block.begin, access);
  switch (claim.outcome) {
    case ClaimOutcome::kClaimed:
      break;
    case ClaimOutcome::kPresent: {
      rcu::ReadScope rcu;
      return parts_.stage2.Use(block.begin, access).has_value() ? BlockOutcome::kDone
                                                                : BlockOutcome::kAgain;
    }
    case ClaimOutcome::kTable:
      return level > 1 ? BlockOutcome::kSmaller : BlockOutcome::kPages;
    case ClaimOutcome::kBusy:
      sched_yield();
      return BlockOutcome::kAgain;
  }
  // If the block is present and does not grant the access, its pages are relaxed one by one: the
  // host may give the pages of a private mapping other frames when they are written.
  if (!claim.pte.empty()) return BlockOutcome::kPages;
  return FillBlock(install, block, level, access);
}

RangeFaultHandler::BlockOutcome RangeFaultHandler::FillBlock(Install& install, GfnRange block,
                                                             unsigned level, Access access) {
  UNDERFOOT_SYNC_POINT("block-claimed");
  const InstallCheck check = install.Check(block);
  if (check.bracket.has_value()) {
    install.GiveBack(block.begin);
    parts_.in_flight.WaitForEnd(*check.bracket);
  }
  if (!check.clear()) return BlockOutcome::kAgain;
  UNDERFOOT_SYNC_POINT("block-before-page-in");
  const HvaRange hvas = install.slot()->HvasOf(block);
  const PageInResult first = source_.PageIn(hvas.begin, access, nullptr);
  if (first.outcome != PageInOutcome::kPresent) return BlockOutcome::kPages;
  // The host's block may not be aligned to ours. The pages are then requested one by one.
  const bool aligned =
      hvas.begin.value % (PagesAt(level) * kPageSize) == 0 && first.pfn.value % PagesAt(level) == 0;
  if (first.level >= level && aligned) {
    UNDERFOOT_SYNC_POINT("block-after-page-in");
    return install.Publish(block.begin, install.LeafOf(first, access)) ? BlockOutcome::kDone
                                                                       : BlockOutcome::kAgain;
  }
  if (level > 1) return BlockOutcome::kSmaller;
  std::array<Pte, kEntries> leaves;
  leaves[0] = install.LeafOf(first, access);
  for (unsigned i = 1; i < kEntries; ++i) {
    const PageInResult in = source_.PageIn(hvas.begin + i * kPageSize, access, nullptr);
    if (in.outcome != PageInOutcome::kPresent) return BlockOutcome::kPages;
    leaves[i] = install.LeafOf(in, access);
  }
  UNDERFOOT_SYNC_POINT("block-after-page-in");
  const std::optional<Pte> one = AsOneLeaf(leaves);
  const bool published = one.has_value()
                             ? install.Publish(block.begin, *one)
                             : install.PublishTable(block.begin, MakePrivateTable(0, leaves));
  return published ? BlockOutcome::kDone : BlockOutcome::kAgain;
}

std::optional<BlockFaultResult> RangeFaultHandler::HandleFault(const Reader& reader, Gfn gfn,
                                                               unsigned level, Access access,
                                                               FaultContext* context) {
  const GfnRange block = EntryRange(gfn, level);
  Install install(parts_, reader, block.begin, level);
  if (install.slot() == nullptr || !install.slot()->gfns.Contains(block) ||
      !install.slot()->Grants(access)) {
    return std::nullopt;
  }
  const ClaimResult claim = install.Claim(block.begin, access);
  switch (claim.outcome) {
    case ClaimOutcome::kClaimed:
      return FillClaimed(install, gfn, level, claim.pte, access, context);
    case ClaimOutcome::kPresent: {
      rcu::ReadScope rcu;
      const std::optional<Stage2::Leaf> used = parts_.stage2.Use(gfn, access);
      if (!used.has_value()) return std::nullopt;
      return BlockFaultResult{
          .fault = {FaultOutcome::kPresent, used->pte.WithPfn(used->PfnOf(gfn)), {}}};
    }
    case ClaimOutcome::kBusy:
    case ClaimOutcome::kTable:
      return std::nullopt;
  }
  return std::nullopt;
}

// `relaxed`: empty, or the leaf of the block that the claim relaxes.
std::optional<BlockFaultResult> RangeFaultHandler::FillClaimed(Install& install, Gfn gfn,
                                                               unsigned level, Pte relaxed,
                                                               Access access,
                                                               FaultContext* context) {
  const GfnRange block = EntryRange(gfn, level);
  UNDERFOOT_SYNC_POINT("block-fault-claimed");
  if (!install.Check(block).clear()) return std::nullopt;
  UNDERFOOT_SYNC_POINT("block-fault-before-page-in");
  const HvaRange hvas = install.slot()->HvasOf(block);
  std::optional<Pte> one;
  std::array<Pte, kEntries> leaves;
  uint64_t present = 0;
  const uint64_t index = gfn - block.begin;
  // Only PageIn lifts a write protection, and only PageIn knows of blocks of 1 GiB.
  if (level > 1 || !relaxed.empty()) {
    const PageInResult in = source_.PageIn(hvas.begin + index * kPageSize, access, context);
    if (in.outcome != PageInOutcome::kPresent || (level > 1 && in.level < level)) {
      return std::nullopt;
    }
    if (level > 1) one = install.LeafOf(in, access).WithPfn({in.pfn.value - index});
  }
  if (level == 1) {
    std::array<PageInResult, kEntries> in;
    source_.PageInSome(hvas, in, context);
    if (in[index].outcome != PageInOutcome::kPresent ||
        (access == Access::kWrite && in[index].granted != Access::kWrite)) {
      return std::nullopt;
    }
    for (unsigned i = 0; i < kEntries; ++i) {
      if (in[i].outcome != PageInOutcome::kPresent) continue;
      ++present;
      leaves[i] = install.LeafOf(in[i], Access::kRead);
    }
    // The block has one accessed and one dirty bit for all of its pages. In a table, the pages that
    // came in with the faulting one have not been used.
    one = AsOneLeaf(leaves);
    if (one.has_value() && access == Access::kWrite) one = one->Dirty();
    if (!one.has_value()) {
      for (Pte& leaf : leaves) leaf = leaf.empty() ? leaf : leaf.Old();
      leaves[index] = install.LeafOf(in[index], access);
    }
  }
  UNDERFOOT_SYNC_POINT("block-fault-after-page-in");
  // The readers of a leaf that is relaxed may be using its frames.
  if (!relaxed.empty() && (!one.has_value() || one->pfn() != relaxed.pfn())) return std::nullopt;
  const bool published = one.has_value()
                             ? install.Publish(block.begin, *one)
                             : install.PublishTable(block.begin, MakePrivateTable(0, leaves));
  if (!published) return std::nullopt;
  const Pte leaf = one.has_value() ? one->WithPfn(one->pfn() + index) : leaves[index];
  return BlockFaultResult{.fault = {FaultOutcome::kMapped, leaf, {}},
                          .around = one.has_value() ? block.size() - 1 : present - 1,
                          .whole = one.has_value()};
}

RangeFaultResult RangeFaultHandler::Collapse(const Reader& reader, Notifier& notifier, Gfn gfn,
                                             unsigned level, Access access) {
  UNDERFOOT_CHECK(level <= kMaxLeafLevel, "a collapse into a block that is none", gfn.value, level);
  const GfnRange block = EntryRange(gfn, level);
  const std::optional<Memslot> slot = parts_.memslots.Find(gfn);
  if (!slot.has_value() || !slot->gfns.Contains(block)) {
    return {FaultInOutcome::kNoMemslot, block.begin};
  }
  { InvalidationScope bracket(notifier, {slot->HvasOf(block), InvalidationKind::kUnmap}); }
  return FaultIn(reader, block, access);
}

}  // namespace underfoot
