#include "tests/oracle/real_operations.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot::oracle {
namespace {

constexpr uint64_t kCacheOffset = 64;  // a cache need not begin at the start of its page
constexpr uint64_t kPoison = 0xdeadbeefdeadbeef;

Result ResultOf(FaultOutcome outcome) {
  switch (outcome) {
    case FaultOutcome::kMapped:
      return Result::kMapped;
    case FaultOutcome::kPresent:
      return Result::kPresent;
    case FaultOutcome::kBlocked:
      return Result::kBlocked;
    case FaultOutcome::kBusy:
      return Result::kBusy;
    case FaultOutcome::kAgain:
      return Result::kAgain;
    case FaultOutcome::kRemovalPending:
      return Result::kRemovalPending;
    case FaultOutcome::kNoMemslot:
      return Result::kNoMemslot;
    case FaultOutcome::kReadOnly:
      return Result::kReadOnly;
    case FaultOutcome::kFailed:
      return Result::kFailed;
  }
  return Result::kForbidden;
}

Result ResultOf(FaultInOutcome outcome) {
  switch (outcome) {
    case FaultInOutcome::kMapped:
      return Result::kMapped;
    case FaultInOutcome::kRemovalPending:
      return Result::kRemovalPending;
    case FaultInOutcome::kNoMemslot:
      return Result::kNoMemslot;
    case FaultInOutcome::kReadOnly:
      return Result::kReadOnly;
    case FaultInOutcome::kAgain:
      return Result::kAgain;
    case FaultInOutcome::kFailed:
      return Result::kFailed;
  }
  return Result::kForbidden;
}

Result ResultOf(RefreshOutcome outcome) {
  switch (outcome) {
    case RefreshOutcome::kValid:
      return Result::kValid;
    case RefreshOutcome::kInactive:
      return Result::kInactive;
    case RefreshOutcome::kNoMemslot:
      return Result::kNoMemslot;
    case RefreshOutcome::kRemovalPending:
      return Result::kRemovalPending;
    case RefreshOutcome::kAgain:
      return Result::kAgain;
    case RefreshOutcome::kFailed:
      return Result::kFailed;
  }
  return Result::kForbidden;
}

Result ResultOf(ClaimOutcome outcome) {
  switch (outcome) {
    case ClaimOutcome::kClaimed:
      return Result::kClaimed;
    case ClaimOutcome::kPresent:
      return Result::kPresent;
    case ClaimOutcome::kBusy:
      return Result::kBusy;
    case ClaimOutcome::kTable:
      return Result::kTable;
  }
  return Result::kForbidden;
}

}  // namespace

void RealOperations::Complain(std::string what) {
  if (complaint_.empty()) complaint_ = std::move(what);
}

void RealOperations::ExpectNoReaders(const std::atomic<uint32_t>& readers) {
  ++compared_.waited;
  if (readers.load(std::memory_order::relaxed) != 0) Complain("a reader was not waited for");
}

void RealOperations::ExpectNoReadersOf(const Island& island) {
  for (const auto& readers : island.readers) ExpectNoReaders(readers);
}

// If the pfn belongs to another page, the result is no frame.
uint32_t RealOperations::FrameOf(const Island& island, unsigned cell, Pfn pfn) {
  const auto frame = static_cast<uint32_t>(pfn.value >> 16);
  if (world_.PfnAt(island, cell, frame) == pfn) return frame;
  Complain(absl::StrFormat("cell %u: pfn 0x%x is of another page", cell, pfn.value));
  return 0;
}

Sections::Page RealOperations::PageOf(const Island& island, unsigned cell, bool writable) const {
  const HostCell& host = island.state.host[cell];
  return {.hva = world_.HvaOf(island, cell),
          .frame = world_.PfnAt(island, cell, host.frame),
          .island = island.number,
          .cell = cell,
          .discards = host.discards,
          .writable = writable};
}

Outcome RealOperations::Translate(Island& island, const Operation& op, Reader& looker, bool keep) {
  const uint8_t cell = op.cells.begin;
  const Gpa gpa = GpaOf(World::GfnOf(island, op.view, cell)) + kCacheOffset;
  TranslatedPage page = world_.mmu().Translate(looker, gpa, op.access);
  if (!page) return {Result::kNo};
  if (page.hva() != world_.HvaOf(island, cell) + kCacheOffset) Complain("translated elsewhere");
  const Outcome outcome{Result::kYes, FrameOf(island, cell, page.pfn())};
  const bool writes = op.access == Access::kWrite;
  const Sections::Counts counts{.readers = &island.readers[cell],
                                .writers = writes ? &island.writers[cell] : nullptr,
                                .pages = 1};
  Complain(sections_.Use(std::move(page), PageOf(island, cell, writes), counts, keep));
  return outcome;
}

Outcome RealOperations::Mark(const Island& island, const Operation& op, Reader& looker) {
  const uint64_t first = PageOfCell(island.number, op.cells.begin);
  const uint64_t pages = PageOfCell(island.number, op.cells.end) - first;
  constexpr uint64_t kMost = 256;  // so that a part of a block is marked too
  const Gfn begin = World::GfnOf(island, op.view, op.cells.begin);
  const Hva hva = world_.HvaOf(island, op.cells.begin);
  uint64_t marked = 0;
  for (bool whole = true; whole && marked < pages;) {
    const uint64_t some = std::min(pages - marked, kMost);
    const RangeSection section(looker, PageRangeOf(hva + marked * kPageSize, some));
    const uint64_t here =
        world_.mmu().MarkUsed(section, {begin + marked, begin + (marked + some)}, op.access);
    marked += here;
    whole = here == some;
  }
  uint8_t end = op.cells.begin;
  while (end < op.cells.end && PageOfCell(island.number, end) - first < marked) ++end;
  if (PageOfCell(island.number, end) - first != marked) Complain("half a cell is marked");
  return {Result::kDone, static_cast<uint32_t>(end - op.cells.begin)};
}

Outcome RealOperations::Check(Island& island, uint8_t index, Reader& looker, bool keep) {
  CacheSection section = island.caches[index].Check(looker);
  if (!section) return {Result::kNo};
  const CacheState& cache = island.state.caches[index];
  const Hva hva = world_.HvaOf(island, cache.cells.begin);
  if (underfoot::HvaOf(section.data()) != hva + kCacheOffset) Complain("the data is elsewhere");
  for (unsigned cell = cache.cells.begin + 1u; cell < cache.cells.end; ++cell) {
    Complain(sections_.Use(CacheSection(), PageOf(island, cell, cache.writable), {}, false));
  }
  if (cache.writable) section.MarkDirty();
  const Pfn frame{PageWords(hva).Get(0)};
  const Sections::Counts counts{
      .readers = &island.readers[cache.cells.begin],
      .writers = cache.writable ? &island.writers[cache.cells.begin] : nullptr,
      .pages = static_cast<unsigned>(cache.cells.end - cache.cells.begin),
      .cache = &island.cache_readers[index]};
  Complain(sections_.Use(std::move(section), PageOf(island, cache.cells.begin, cache.writable),
                         counts, keep));
  return {Result::kYes, FrameOf(island, cache.cells.begin, frame)};
}

Outcome RealOperations::Fault(Island& island, const Operation& op, const Reader& worker) {
  const uint8_t cell = op.cells.begin;
  const FaultResult fault =
      world_.mmu().faults().HandleFault(worker, World::GfnOf(island, op.view, cell), op.access);
  const Result result = ResultOf(fault.outcome);
  if (result != Result::kMapped && result != Result::kPresent) return {result};
  return {result, FrameOf(island, cell, fault.pte.pfn())};
}

Outcome RealOperations::Activate(Island& island, const Operation& op, const Reader& worker) {
  const PfnCache::Key key =
      op.flag ? PfnCache::Key(GpaOf(World::GfnOf(island, op.view, op.cells.begin)) + kCacheOffset)
              : PfnCache::Key(world_.HvaOf(island, op.cells.begin) + kCacheOffset);
  const uint64_t bytes = world_.HvasOf(island, op.cells).size() - kCacheOffset;
  const absl::Status status = island.caches[op.index].Activate(worker, key, bytes, op.access);
  ExpectNoReaders(island.cache_readers[op.index]);  // of the old key
  if (absl::IsNotFound(status)) return {Result::kNoMemslot};
  if (absl::IsUnavailable(status)) return {Result::kFailed};
  return {status.ok() ? Result::kDone : Result::kForbidden};
}

// The steps of an install, with other operations between the look-up and the publication.
Outcome RealOperations::Claim(Island& island, const Operation& op) {
  Stage2& stage2 = world_.mmu().stage2();
  const unsigned cell = op.flag ? 0 : op.cells.begin;
  const Cells cells = op.flag ? kAllCells : op.cells;
  const Gfn gfn = World::GfnOf(island, op.view, cell);
  const OwnerTag tag = island.claimants[op.index].tag();
  const ClaimOutcome claimed = stage2.TryClaim(gfn, op.flag ? 1 : 0, op.access, tag).outcome;
  if (claimed != ClaimOutcome::kClaimed) return {ResultOf(claimed)};
  if (world_.mmu().in_flight().FindOverlap(world_.HvasOf(island, cells))) {
    stage2.Abandon(gfn, tag);
    return {Result::kBlocked};
  }
  for (unsigned i = cells.begin; i < cells.end; ++i) {
    const Mood mood = island.state.host[i].mood;
    if (mood == Mood::kRemovalPending || mood == Mood::kFailed) {
      stage2.Abandon(gfn, tag);
      return {Result::kRemovalPending};
    }
  }
  return {Result::kClaimed};
}

Outcome RealOperations::Publish(Island& island, uint8_t index) {
  const ClaimState& claim = island.state.claims[index];
  Pte leaf = Pte::Leaf(world_.PfnAt(island, claim.cell, claim.frame),
                       claim.granted_write ? Access::kWrite : Access::kRead);
  if (claim.dirty) leaf = leaf.Dirty();
  const bool published =
      world_.mmu().stage2().Publish(World::GfnAt(island, claim.view, claim.cell, claim.place),
                                    island.claimants[index].tag(), leaf);
  return {published ? Result::kMapped : Result::kStolen};
}

Outcome RealOperations::Abandon(Island& island, uint8_t index) {
  const ClaimState& claim = island.state.claims[index];
  world_.mmu().stage2().Abandon(World::GfnAt(island, claim.view, claim.cell, claim.place),
                                island.claimants[index].tag());
  return {Result::kDone};
}

Outcome RealOperations::Begin(Island& island, const Operation& op) {
  island.brackets[op.index] =
      world_.mmu().notifier().Begin({world_.HvasOf(island, op.cells), op.invalidation});
  Freeze(island, op.cells, op.invalidation);
  return {Result::kDone};
}

Outcome RealOperations::End(Island& island, uint8_t index) {
  BracketToken& token = island.brackets[index];
  const bool stray = !token.open();
  for (unsigned cell = 0; cell < kCells && !stray; ++cell) {
    const Cells one = OneCell(static_cast<uint8_t>(cell));
    if (token.range().Overlaps(world_.HvasOf(island, one))) Thaw(island, one);
  }
  // If it is the only bracket over this range, a thread that met it must find that it has ended.
  const InFlightRanges& in_flight = world_.mmu().in_flight();
  const HvaRange range = stray ? HvaRange{} : token.range();
  const auto met = stray ? std::nullopt : in_flight.FindOverlap(range);
  world_.mmu().notifier().End(token);
  if (met.has_value() && !in_flight.FindOverlap(range) && in_flight.InFlight(*met)) {
    Complain("a bracket that has ended looks as if it were in flight");
  }
  return {stray ? Result::kStray : Result::kDone};
}

Outcome RealOperations::Split(Island& island, uint8_t view) {
  const Gfn first = World::GfnOf(island, view, 0);
  const GfnRange range{first, first + PageOfCell(island.number, kCells)};
  TablePool pool(1);
  const bool all = world_.mmu().stage2().Split(range, 0, pool) == range.end;
  return {all ? Result::kDone : Result::kNo};
}

Outcome RealOperations::MapBlock(Island& island, const Operation& op, const Reader& worker) {
  const Gfn first = World::GfnOf(island, op.view, 0);
  RangeFaultHandler& faults = world_.mmu().range_faults();
  const RangeFaultResult fault =
      op.flag ? faults.Collapse(worker, world_.mmu().notifier(), first, 1, op.access)
              : faults.FaultIn(worker, {first, first + kBlockPages}, op.access);
  if (fault.reached != first + kBlockPages) Complain("a block was not faulted in whole");
  return {ResultOf(fault.outcome)};
}

Outcome RealOperations::FaultBlock(Island& island, const Operation& op, const Reader& worker) {
  const std::optional<BlockFaultResult> fault = world_.mmu().range_faults().HandleFault(
      worker, World::GfnOf(island, op.view, 0), 1, op.access, nullptr);
  if (!fault.has_value()) return {Result::kNo};
  if (fault->fault.outcome == FaultOutcome::kMapped && !fault->whole) {
    Complain("a block of the host became a table");
  }
  return {ResultOf(fault->fault.outcome)};
}

void RealOperations::CheckFrozen(const Island& island, unsigned cell) {
  ++compared_.freezes;
  if (PageWords(world_.HvaOf(island, cell)).Sum() != island.frozen_sums[cell]) {
    Complain(absl::StrFormat("cell %u: written to inside a bracket", cell));
  }
}

void RealOperations::Freeze(Island& island, Cells cells, InvalidationKind kind) {
  for (unsigned cell = cells.begin; cell < cells.end; ++cell) {
    // A protection does not wait for sections that only read.
    ExpectNoReaders(kind == InvalidationKind::kUnmap ? island.readers[cell] : island.writers[cell]);
    if (island.brackets_over[cell]++ > 0) continue;
    island.frozen_sums[cell] = PageWords(world_.HvaOf(island, cell)).Sum();
  }
}

void RealOperations::Thaw(Island& island, Cells cells) {
  for (unsigned cell = cells.begin; cell < cells.end; ++cell) {
    if (--island.brackets_over[cell] == 0) CheckFrozen(island, cell);
  }
}

// Stands for the host mm call. A reader that wrongly still reads sees the poison and then another
// frame.
Outcome RealOperations::ChangeFrames(Island& island, const Operation& op) {
  for (unsigned cell = op.cells.begin; cell < op.cells.end; ++cell) {
    CheckFrozen(island, cell);
    PageWords words(world_.HvaOf(island, cell));
    words.Set(0, kPoison);
    if (op.kind == Kind::kDiscard) {
      for (unsigned t = 0; t < kMaxThreads; ++t) words.Set(1 + t, 0);
      island.frozen_sums[cell] = 0;
    }
    words.Set(0, world_.PfnAt(island, cell, island.state.host[cell].frame).value);
  }
  return {Result::kDone};
}

Outcome RealOperations::Create(const Island& island, unsigned view, bool read_only) {
  const unsigned last = view == kSharedView ? kIslands : island.number + 1;
  const Gfn first = World::GfnOf(island, view, 0);
  const uint64_t pages = FirstPageOf(last) - FirstPageOf(island.number);
  const absl::Status status = world_.mmu().CreateMemslot({.id = SlotIdOf(island.number, view),
                                                          .gfns = {first, first + pages},
                                                          .hva = world_.HvaOf(island, 0),
                                                          .flags = {.read_only = read_only}});
  if (!status.ok() && !absl::IsAlreadyExists(status)) Complain(status.ToString());
  return {status.ok() ? Result::kDone : Result::kNo};
}

Outcome RealOperations::Delete(const Island& island, unsigned view) {
  const absl::Status status = world_.mmu().DeleteMemslot(SlotIdOf(island.number, view));
  const unsigned last = view == kSharedView ? kIslands : island.number + 1;
  for (unsigned number = island.number; number < last && status.ok(); ++number) {
    ExpectNoReadersOf(world_.island(number));
  }
  if (!status.ok() && !absl::IsNotFound(status)) Complain(status.ToString());
  return {status.ok() ? Result::kDone : Result::kNo};
}

Outcome RealOperations::Move(const Island& island, unsigned view) {
  const absl::Status status =
      world_.mmu().MoveMemslot(SlotIdOf(island.number, view), World::GfnOf(island, view, 0));
  if (status.ok()) ExpectNoReadersOf(island);
  return {status.ok() ? Result::kDone : Result::kNo};
}

Outcome RealOperations::SetFlags(const Island& island, const Operation& op) {
  const MemslotFlags flags{.read_only = op.flag, .log_dirty = op.index != 0};
  const absl::Status status = world_.mmu().SetMemslotFlags(SlotIdOf(island.number, op.view), flags);
  return {status.ok() ? Result::kDone : Result::kNo};
}

Outcome RealOperations::Collect(const Island& island, unsigned view) {
  const absl::StatusOr<DirtyBitmap> written =
      world_.mmu().CollectDirty(SlotIdOf(island.number, view));
  if (!written.ok()) return {Result::kNo};
  ExpectNoReadersOf(island);
  uint32_t cells = 0;
  for (unsigned cell = 0; cell < kCells; ++cell) {
    const uint64_t first = PageOfCell(island.number, cell);
    const uint64_t last = PageOfCell(island.number, cell + 1) - 1;
    if (written->Contains(first) != written->Contains(last)) Complain("half a cell was written");
    cells |= uint32_t{written->Contains(first)} << cell;
  }
  return {Result::kDone, cells};
}

Outcome RealOperations::Make(Island& island, const Operation& op, Readers readers, bool keep) {
  switch (op.kind) {
    case Kind::kTranslate:
      return Translate(island, op, readers.looker, keep);
    case Kind::kMark:
      return Mark(island, op, readers.looker);
    case Kind::kCheck:
      return Check(island, op.index, readers.looker, keep);
    case Kind::kFault:
      return Fault(island, op, readers.worker);
    case Kind::kRefresh:
      return {ResultOf(island.caches[op.index].Refresh(readers.worker))};
    case Kind::kActivate:
      return Activate(island, op, readers.worker);
    case Kind::kDeactivate:
      island.caches[op.index].Deactivate();
      ExpectNoReaders(island.cache_readers[op.index]);
      return {Result::kDone};
    case Kind::kClaim:
      return Claim(island, op);
    case Kind::kPublish:
      return Publish(island, op.index);
    case Kind::kAbandon:
      return Abandon(island, op.index);
    case Kind::kBegin:
      return Begin(island, op);
    case Kind::kEnd:
      return End(island, op.index);
    case Kind::kSplit:
      return Split(island, op.view);
    case Kind::kMapBlock:
      return MapBlock(island, op, readers.worker);
    case Kind::kFaultBlock:
      return FaultBlock(island, op, readers.worker);
    case Kind::kMove:
    case Kind::kDiscard:
      return ChangeFrames(island, op);
    case Kind::kAge: {
      const HvaRange range = world_.HvasOf(island, op.cells);
      return {world_.mmu().notifier().TestClearYoung(range, op.flag) ? Result::kYes : Result::kNo};
    }
    case Kind::kTouch:
      world_.subscriber().records[island.number].young = true;
      return {Result::kDone};
    case Kind::kCreateSlot:
      return Create(island, op.view, op.flag);
    case Kind::kDeleteSlot:
      return Delete(island, op.view);
    case Kind::kMoveSlot:
      return Move(island, op.view);
    case Kind::kSetFlags:
      return SetFlags(island, op);
    case Kind::kCollect:
      return Collect(island, op.view);
    case Kind::kSubscribe:
      world_.mmu().notifier().Register(world_.subscriber());
      return {Result::kDone};
    case Kind::kUnsubscribe:
      world_.mmu().notifier().Unregister(world_.subscriber());
      return {Result::kDone};
    case Kind::kProtect:  // changes only what the page source grants
    case Kind::kMood:
    case Kind::kLookUp:
    case Kind::kAnswered:
      return {Result::kDone};
  }
  return {Result::kForbidden};
}

}  // namespace underfoot::oracle
