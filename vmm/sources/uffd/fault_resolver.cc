#include "vmm/sources/uffd/fault_resolver.h"

#include "mmu/base/sync_point.h"

namespace underfoot {

GuestPageSource::Fault::Kind UffdFault::kind() const {
  using Kind = GuestPageSource::Fault::Kind;
  return alone ? Kind::kUnknown : minor ? Kind::kMinor : Kind::kMissing;
}

std::optional<FaultResolver::Target> FaultResolver::TargetOf(Hva page) const {
  const std::optional<Memslot> slot = mmu_.memslots().Find(page);
  if (!slot.has_value()) return std::nullopt;
  const Gfn gfn = slot->GfnsOf(PageRangeOf(page)).begin;
  return Target{gfn, slot->HvasOf(EntryRange(gfn, 1).Intersect(slot->gfns))};
}

HvaRange FaultResolver::NextWindow(Hva page, HvaRange within) {
  if (!window_mutex_.TryLock()) return PageRangeOf(page);
  const HvaRange window = window_.Next(page, within);
  window_mutex_.Unlock();
  return window;
}

// A hugetlb page comes in, and loses its write protection, as a whole. What stood in the way of a
// transparent huge page may still be there when its fault is tried again.
bool FaultResolver::WantsBlock(const UffdFault& fault) const {
  if (IsHugetlb(source_.huge_pages())) return true;
  return source_.huge_pages() == HugePages::kThp && brings_others_ && !fault.alone;
}

std::optional<FaultResult> FaultResolver::HandleBlockFault(const Reader& reader,
                                                           const Target& target,
                                                           const UffdFault& fault,
                                                           GuestPageSource::Fault& context) {
  for (unsigned level = source_.huge_pages() == HugePages::k1G ? 2 : 1; level > 0; --level) {
    const std::optional<BlockFaultResult> result =
        mmu_.range_faults().HandleFault(reader, target.gfn, level, fault.access, &context);
    if (!result.has_value()) continue;
    around_.Add(result->around);
    if (result->fault.outcome == FaultOutcome::kMapped) {
      (result->whole ? blocks_ : block_fallbacks_).Add();
    }
    return result->fault;
  }
  block_fallbacks_.Add();
  return std::nullopt;
}

FaultResult FaultResolver::HandleFault(const Reader& reader, const Target& target,
                                       const UffdFault& fault, GuestPageSource::Fault& context,
                                       Ahead& ahead) {
  if (WantsBlock(fault)) {
    if (const auto result = HandleBlockFault(reader, target, fault, context)) return *result;
    if (IsHugetlb(source_.huge_pages())) {  // its neighbours have come in with it
      return mmu_.faults().HandleFault(reader, target.gfn, fault.access, &context);
    }
  }
  const HvaRange pages =
      fault.alone ? PageRangeOf(fault.page) : NextWindow(fault.page, target.around);
  if (pages.size() == kPageSize) {
    return mmu_.faults().HandleFault(reader, target.gfn, fault.access, &context);
  }
  const Gfn first = target.gfn - ((fault.page - pages.begin) >> kPageShift);
  const GfnRange window{first, first + (pages.size() >> kPageShift)};
  const FaultAroundResult result =
      mmu_.faults_around().HandleFault(reader, target.gfn, window, fault.access, &context);
  around_.Add(result.around);
  ahead = {pages, target.around, fault.kind()};
  return result.fault;
}

// The thread whose faults make the stream runs on its window meanwhile, and no thread waits for
// these pages. One window at a time, since faults come first.
void FaultResolver::BringIn(const Reader& reader, Ahead& ahead) {
  if (ahead.last.empty() || !window_mutex_.TryLock()) return;
  const HvaRange pages = window_.Further(ahead.last, ahead.within);
  window_mutex_.Unlock();
  ahead.last = pages;
  const std::optional<Target> target = pages.empty() ? std::nullopt : TargetOf(pages.begin);
  if (!target.has_value()) return;
  GuestPageSource::Fault context(pages.begin, ahead.kind);
  const GfnRange window{target->gfn, target->gfn + (pages.size() >> kPageShift)};
  around_.Add(mmu_.faults_around().BringIn(reader, window, &context));
}

FaultResolver::Attempt FaultResolver::TryResolve(const Reader& reader, UffdFault& fault,
                                                 Ahead& ahead) {
  GuestPageSource::Fault context(fault.page, fault.kind());
  // If the page came in, its copy has woken each thread that waited for it, also if the claim was lost
  // afterwards. A thread that still needs the page faults again. If this fault were tried again, a page
  // could come back that the guest has given to the host since.
  if (Resolve(reader, fault, context, ahead) == Attempt::kDeferred && !context.woken()) {
    return Attempt::kDeferred;
  }
  Resolved(fault, context.woken());
  return Attempt::kResolved;
}

FaultResolver::Attempt FaultResolver::Resolve(const Reader& reader, UffdFault& fault,
                                              GuestPageSource::Fault& context, Ahead& ahead) {
  fault.bracket.reset();
  const std::optional<Target> target = TargetOf(fault.page);
  if (!target.has_value()) return ResolveWithoutLeaf(fault, context);
  if (!fault.write_protected) RepairLostCopy(target->gfn, fault);
  // A reader that has the page in a section and faults on it all the same lost it to another
  // process or thread. It must not wait for a bracket, because the bracket's Begin is waiting for
  // it. The host mm call of that bracket has not been made yet, so the page may come in; no
  // translation is made. A section over a range may be announced over the page without using it, also
  // after that call: a page that the bracket removes then comes in inside the bracket, as zeroes, and
  // PageInGate keeps one out whose content is elsewhere.
  if (mmu_.readers().AnySectionOverlapsUnsafe(source_.HostPageOf(fault.page))) {
    return ResolveWithoutLeaf(fault, context);
  }
  const FaultResult result = HandleFault(reader, *target, fault, context, ahead);
  switch (result.outcome) {
    case FaultOutcome::kMapped:
    case FaultOutcome::kRemovalPending:
      return Attempt::kResolved;
    case FaultOutcome::kPresent:
      return ResolveUnderLeaf(fault, target->gfn, result.pte, context);
    case FaultOutcome::kBlocked:
      fault.bracket = result.bracket;
      return Attempt::kDeferred;
    case FaultOutcome::kBusy:
      if (!fault.merged) merged_.Add();
      fault.merged = true;
      return Attempt::kDeferred;
    case FaultOutcome::kAgain:
      return Attempt::kDeferred;
    case FaultOutcome::kNoMemslot:
    case FaultOutcome::kReadOnly:
    case FaultOutcome::kFailed:
      return ResolveWithoutLeaf(fault, context);
  }
  return Attempt::kResolved;
}

FaultResolver::Attempt FaultResolver::ResolveWithoutLeaf(const UffdFault& fault,
                                                         GuestPageSource::Fault& context) {
  const PageInResult in = source_.PageIn(fault.page, fault.access, &context);
  if (in.outcome == PageInOutcome::kAgain) return Attempt::kDeferred;
  // Also if it failed: the thread that waits then meets the kernel's own answer (SIGSEGV, SIGBUS,
  // EFAULT).
  return Attempt::kResolved;
}

// The leaf grants the access and the host did not: write protection of the host's own, a fault that
// another handler has resolved meanwhile, or a page lost since RepairLostCopy looked. A leaf of
// another frame goes in any case; it is a loss only if no bracket explains it.
FaultResolver::Attempt FaultResolver::ResolveUnderLeaf(const UffdFault& fault, Gfn gfn, Pte leaf,
                                                       GuestPageSource::Fault& context) {
  const PageInResult in = source_.PageIn(fault.page, fault.access, &context);
  if (in.outcome == PageInOutcome::kAgain) return Attempt::kDeferred;
  const bool other = in.outcome == PageInOutcome::kPresent && in.pfn != leaf.pfn();
  if (other) {
    const HvaRange page = source_.HostPageOf(fault.page);
    Repair(FindLostCopy(mmu_, reads_, gfn, page, pagemap_.real_pfns(),
                        [&] { return pagemap_.Read(fault.page); }),
           page);
  }
  return Attempt::kResolved;
}

// A page that has a leaf in stage-2 and is absent in the host was zapped by a removal whose end was
// not reported.
void FaultResolver::RepairLostCopy(Gfn gfn, const UffdFault& fault) {
  const HvaRange page = source_.HostPageOf(fault.page);
  // Of a page that is there in another frame, see ResolveUnderLeaf.
  const auto look = [&] {
    const PagemapEntry entry = pagemap_.Read(fault.page);
    UNDERFOOT_SYNC_POINT("lost-copy-looked");
    return entry;
  };
  Repair(FindLostCopy(mmu_, reads_, gfn, page, false, look), page);
}

void FaultResolver::Repair(LostCopy lost, HvaRange page) {
  switch (lost) {
    case LostCopy::kNo:
      return;
    case LostCopy::kLost:
      return events_.FoundGone(page);
    case LostCopy::kUnclear:
      return events_.Drop(page);
  }
}

// If the page was there already, the kernel has woken no thread: this does.
void FaultResolver::Resolved(const UffdFault& fault, bool woken) {
  if (!woken) uffd_.Wake(PageRangeOf(fault.page));
  fault_us_.Record(static_cast<uint64_t>(MonotonicNs() - fault.read_ns) / 1000);
}

void FaultResolver::AddTo(UffdStats& stats) const {
  stats.around = around_.Get();
  stats.blocks = blocks_.Get();
  stats.block_fallbacks = block_fallbacks_.Get();
  stats.merged = merged_.Get();
  stats.fault_us = fault_us_.Snapshot();
}

}  // namespace underfoot
