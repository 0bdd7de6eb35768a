#include "vmm/ram/guest_page_source.h"

#include <algorithm>
#include <array>
#include <optional>

#include "mmu/base/check.h"
#include "mmu/base/sync_point.h"
#include "mmu/fault_around.h"
#include "vmm/ram/file_holes.h"
#include "vmm/ram/huge_page_pool.h"

namespace underfoot {
namespace {

constexpr uint64_t kMostAtOnce = FaultAroundHandler::kMaxPages;

constexpr PageInResult Without(PageInOutcome outcome) { return {outcome, Pfn{}, Access::kRead}; }

}  // namespace

// Where to look first. What the kernel said of one page stands for those around it.
bool GuestPageSource::ComesFromFile(HvaRange pages, const Fault* fault) const {
  if (!HasFile()) return false;
  return fault == nullptr || !pages.Contains(fault->page()) ||
         fault->kind() != Fault::Kind::kMissing;
}

// The caller marks the pages before they are present: their reader may continue at once, and a
// collection that came between would not report them. They already read as zeroes.
void GuestPageSource::MarkZeroes(HvaRange pages) {
  if (log_ != nullptr) log_->Mark(pages);
}

UffdProgress GuestPageSource::BringIn(HvaRange pages, bool from_file, Fault* fault) {
  if (!from_file) MarkZeroes(pages);
  const UffdProgress progress = from_file ? uffd_.Continue(pages) : uffd_.CopyZeroes(pages);
  const HvaRange done{pages.begin, pages.begin + progress.pages * kPageSize};
  if (fault != nullptr && done.Contains(fault->page())) fault->woken_ = true;
  return progress;
}

UffdOutcome GuestPageSource::MakeHostPagePresent(HvaRange host_page, bool from_file, Fault* fault) {
  if (from_file) {
    const UffdOutcome mapped = BringIn(host_page, true, fault).outcome;
    if (mapped != UffdOutcome::kNoPage) return mapped;
  }
  return BringIn(host_page, false, fault).outcome;
}

UffdOutcome GuestPageSource::MakePresent(Hva page, bool from_file, Fault* fault) {
  const HvaRange host_page = HostPageOf(page);
  const UffdOutcome made = MakeHostPagePresent(host_page, from_file, fault);
  // Another mapping may have taken the place of hugetlb memory. Its pages are small.
  if (made != UffdOutcome::kGone || !IsHugetlb(huge_pages_)) return made;
  return MakeHostPagePresent(PageRangeOf(page), from_file, fault);
}

// Returns whether pages may have come in. What is still absent comes in page by page. `from_file`
// becomes true if the file has the pages now.
bool GuestPageSource::BringInHugePage(HvaRange block, bool& from_file, Fault* fault) {
  if (holes_ != nullptr && (!from_file || fault == nullptr)) {
    MarkZeroes(block);
    holes_->Fill(block);
    from_file = true;
    return false;
  }
  const std::optional<Hva> ready = pool_ == nullptr ? std::nullopt : pool_->Take();
  if (!ready.has_value()) return false;
  MarkZeroes(block);
  const UffdProgress moved = uffd_.MoveIn(*ready, block);
  const bool all = moved.pages == block.size() >> kPageShift;
  pool_->Return(*ready, all);
  if (all && fault != nullptr) fault->woken_ = true;
  // A part that was moved is found by the look at the pages: after EEXIST the count says nothing.
  return true;
}

// Its other end must be in the frame that it would have in one huge page. Nothing smaller than a
// huge page can lie in hugetlb memory, and another mapping can take its place only as a whole.
bool GuestPageSource::IsGiantFrame(Hva page, Pfn pfn) const {
  constexpr uint64_t kPages = kGiantBytes >> kPageShift;
  if (huge_pages_ != HugePages::k1G || !pagemap_.real_pfns()) return false;
  const HvaRange giant = HostPageOf(page);
  const Pfn first{pfn.value - ((page - giant.begin) >> kPageShift)};
  if (first.value % kPages != 0) return false;
  for (const uint64_t i : {uint64_t{0}, kPages - 1}) {
    const PagemapEntry entry = pagemap_.Read(giant.begin + i * kPageSize);
    if (!entry.present || entry.pfn != first + i) return false;
  }
  return true;
}

UffdOutcome GuestPageSource::LiftProtection(HvaRange page) {
  if (announcements_ == nullptr) return uffd_.WriteProtect(page, false);
  announcements_->Announce(page);
  const UffdOutcome lifted = uffd_.WriteProtect(page, false);
  announcements_->Done(page);
  return lifted;
}

// Pages that are nowhere and pages that the file has take turns: each call ends where the other
// kind begins, and the next run goes on with it. A page that is neither has come in meanwhile.
void GuestPageSource::MakeRunPresent(HvaRange run, bool& from_file, Fault* fault) {
  run = {HostPageOf(run.begin).begin, HostPageOf(run.end - 1).end};
  bool other_tried = false;
  while (!run.empty()) {
    const UffdProgress progress = BringIn(run, from_file, fault);
    run.begin += progress.pages * kPageSize;
    if (progress.pages != 0) other_tried = false;
    switch (progress.outcome) {
      case UffdOutcome::kDone:
        if (progress.pages == 0) return;
        break;
      case UffdOutcome::kNoPage:
      case UffdOutcome::kExists:
        if (HasFile() && !other_tried) {
          from_file = !from_file;
          other_tried = true;
          break;
        }
        run.begin += HostPageBytes(huge_pages_);
        other_tried = false;
        break;
      case UffdOutcome::kAgain:
        eagain_.Add();
        return;
      case UffdOutcome::kGone:
      case UffdOutcome::kFailed:
        return;
    }
  }
}

void GuestPageSource::PageInSome(HvaRange pages, std::span<PageInResult> results,
                                 FaultContext* context) {
  UNDERFOOT_CHECK(results.size() <= kMostAtOnce, "too many pages at once", pages.begin.value,
                  results.size());
  std::fill(results.begin(), results.end(), Without(PageInOutcome::kRemovalPending));
  const PageInGate::PageIn page_in(gate_);
  if (!page_in.MayBringIn(pages)) return;
  // What others are removing comes back when it is asked for, not before. Asked once, before the
  // looks, as in PageIn.
  if (pending_.Pending(pages)) return;
  std::array<PagemapEntry, kMostAtOnce> entries;
  const std::span<PagemapEntry> some = std::span(entries).first(results.size());
  pagemap_.Read(pages, some);
  auto* const fault = static_cast<Fault*>(context);
  bool from_file = ComesFromFile(pages, fault);
  bool made = false;
  const bool nothing_there = std::none_of(some.begin(), some.end(), [](const PagemapEntry& entry) {
    return entry.present || entry.swapped;
  });
  // As in PageIn: before they are there.
  for (uint64_t i = 0; i < some.size() && touch_sink_; ++i) {
    if (!some[i].present && !some[i].swapped) touch_sink_(pages.begin + i * kPageSize);
  }
  if (nothing_there && pages.size() == kBlockBytes && pages.begin.value % kBlockBytes == 0) {
    made = BringInHugePage(pages, from_file, fault);
    if (made) pagemap_.Read(pages, some);
  }
  for (uint64_t i = 0; i < some.size();) {
    uint64_t end = i;
    while (end < some.size() && !some[end].present && !some[end].swapped) ++end;
    if (end == i) {
      ++i;
      continue;
    }
    HvaRange run{pages.begin + i * kPageSize, pages.begin + end * kPageSize};
    if (!made && !IsHugetlb(huge_pages_) && run.size() > head_start_bytes_) {
      MakeRunPresent({run.begin, run.begin + head_start_bytes_}, from_file, fault);
      run.begin += head_start_bytes_;
    }
    MakeRunPresent(run, from_file, fault);
    made = true;
    i = end;
  }
  if (made) pagemap_.Read(pages, some);
  for (uint64_t i = 0; i < some.size(); ++i) {
    if (!some[i].present) continue;
    results[i] = {.outcome = PageInOutcome::kPresent,
                  .pfn = some[i].pfn,
                  .granted = some[i].uffd_wp ? Access::kRead : Access::kWrite};
  }
}

PageInResult GuestPageSource::PageIn(Hva page, Access access, FaultContext* context) {
  const PageInGate::PageIn page_in(gate_);
  if (!page_in.MayBringIn(PageRangeOf(page))) return Without(PageInOutcome::kAgain);
  // While a removal is pending, an absent page is evidence. The page is then looked up first, even
  // if the fault reports its state.
  auto* const fault = static_cast<Fault*>(context);
  bool reported = fault != nullptr && fault->page() == page &&
                  fault->kind() != Fault::Kind::kUnknown && pending_.None();
  for (;; reported = false) {
    // Checked after the caller's claim and before the look. If a removal of the page is read later,
    // its invalidation takes the claim. If one was read earlier, it is pending here, or its zap is
    // over and the look sees the result. If this check came after the look, a zap could begin and
    // end in between, and the leaf would be of a page that is gone.
    const bool removal_pending = pending_.Pending(PageRangeOf(page));
    PagemapEntry entry;
    if (!reported) {
      const uint64_t before = pending_.Now();
      entry = pagemap_.Read(page);
      if (!entry.present && !entry.swapped) pending_.NoteAbsent(page, before);
    }
    if (entry.present && entry.uffd_wp && access == Access::kWrite) {
      switch (LiftProtection(HostPageOf(page))) {
        case UffdOutcome::kDone:
          continue;  // look again: the page may have gone meanwhile
        case UffdOutcome::kAgain:
          eagain_.Add();
          return Without(PageInOutcome::kAgain);
        case UffdOutcome::kExists:
        case UffdOutcome::kNoPage:
        case UffdOutcome::kGone:
        case UffdOutcome::kFailed:
          return Without(PageInOutcome::kFailed);
      }
    }
    if (entry.present) {
      if (removal_pending) return Without(PageInOutcome::kRemovalPending);
      return {.outcome = PageInOutcome::kPresent,
              .pfn = entry.pfn,
              .granted = entry.uffd_wp ? Access::kRead : Access::kWrite,
              .level = IsGiantFrame(page, entry.pfn) ? 2U : 0U};
    }
    // It came in for this fault, its thread went on, and the page has gone since. Nothing waits for it.
    if (fault != nullptr && fault->page() == page && fault->woken()) {
      return Without(PageInOutcome::kAgain);
    }
    // Before the page is present: a thread that waits for it continues at once when it is, and a
    // scan must not come in between.
    if (touch_sink_) touch_sink_(page);
    const bool from_file = reported ? ComesFromFile(PageRangeOf(page), fault) : HasFile();
    switch (MakePresent(page, from_file, fault)) {
      case UffdOutcome::kDone:
        UNDERFOOT_SYNC_POINT("page-came-in");
        continue;
      case UffdOutcome::kExists:
        // A swapped page comes in when it is touched, without a userfault; it has no frame to keep
        // now. (The write-protect marker of an absent page looks like a swap entry too: hence after
        // the attempt.)
        if (entry.swapped) return Without(PageInOutcome::kRemovalPending);
        continue;
      case UffdOutcome::kAgain:
        eagain_.Add();
        return Without(PageInOutcome::kAgain);
      case UffdOutcome::kNoPage:
      case UffdOutcome::kGone:
      case UffdOutcome::kFailed:
        return Without(PageInOutcome::kFailed);
    }
  }
}

}  // namespace underfoot
