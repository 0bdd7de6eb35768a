#include "vmm/memory/guest_page_source.h"

#include <algorithm>
#include <array>

#include "mmu/check.h"
#include "mmu/fault_around.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

constexpr uint64_t kMostAtOnce = FaultAroundHandler::kMaxPages;

// Each call wakes who waits for its pages: with a first one for a few, a vCPU goes on while the
// rest comes in, and does not catch up.
constexpr uint64_t kHeadStart = 8 * kPageSize;

thread_local GuestPageSource::Fault* t_fault = nullptr;

constexpr PageInResult Without(PageInOutcome outcome) { return {outcome, Pfn{}, Access::kRead}; }

}  // namespace

GuestPageSource::Fault::Fault(Hva page, Kind kind) : page_(page), kind_(kind) { t_fault = this; }
GuestPageSource::Fault::~Fault() { t_fault = nullptr; }

// Where to look first. What the kernel said of one page stands for those around it.
bool GuestPageSource::ComesFromFile(HvaRange pages) const {
  if (!HasFile()) return false;
  return t_fault == nullptr || !pages.Contains(t_fault->page()) ||
         t_fault->kind() != Fault::Kind::kMissing;
}

UffdProgress GuestPageSource::BringIn(HvaRange pages, bool from_file) {
  const UffdProgress progress = from_file ? uffd_.Continue(pages) : uffd_.CopyZeroes(pages);
  const HvaRange done{pages.begin, pages.begin + progress.pages * kPageSize};
  if (t_fault != nullptr && done.Contains(t_fault->page())) t_fault->woken_ = true;
  return progress;
}

UffdOutcome GuestPageSource::MakePresent(Hva page, bool from_file) {
  if (from_file) {
    const UffdOutcome mapped = BringIn(PageRangeOf(page), true).outcome;
    if (mapped != UffdOutcome::kNoPage) return mapped;
  }
  return BringIn(PageRangeOf(page), false).outcome;
}

UffdOutcome GuestPageSource::LiftProtection(HvaRange page) {
  if (announcements_ == nullptr || UNDERFOOT_MUTANT("kernel-lift-unannounced")) {
    return uffd_.WriteProtect(page, false);
  }
  announcements_->Announce(page);
  const UffdOutcome lifted = uffd_.WriteProtect(page, false);
  announcements_->Done(page);
  return lifted;
}

// Pages that are nowhere and pages that the file has take turns: each call ends where the other
// kind begins, and the next run goes on with it. A page that is neither has come in meanwhile.
void GuestPageSource::MakeRunPresent(HvaRange run, bool& from_file) {
  bool other_tried = false;
  while (!run.empty()) {
    const UffdProgress progress = BringIn(run, from_file);
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
        run.begin += kPageSize;
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

void GuestPageSource::PageInSome(HvaRange pages, std::span<PageInResult> results) {
  UNDERFOOT_CHECK(results.size() <= kMostAtOnce, "too many pages at once", pages.begin.value,
                  results.size());
  std::fill(results.begin(), results.end(), Without(PageInOutcome::kSettling));
  const PageInGate::PageIn page_in(gate_);
  if (!page_in.MayBringIn(pages) && !UNDERFOOT_MUTANT("around-ignores-gate")) return;
  // What others are removing comes back when it is asked for, not before.
  const bool ignores = UNDERFOOT_MUTANT("around-ignores-settling");
  if (settling_.Settling(pages) && !ignores) return;
  std::array<PagemapEntry, kMostAtOnce> entries;
  const std::span<PagemapEntry> some = std::span(entries).first(results.size());
  pagemap_.Read(pages, some);
  bool from_file = ComesFromFile(pages);
  bool made = false;
  for (uint64_t i = 0; i < some.size();) {
    uint64_t end = i;
    while (end < some.size() && !some[end].present && !some[end].swapped) ++end;
    if (end == i) {
      ++i;
      continue;
    }
    HvaRange run{pages.begin + i * kPageSize, pages.begin + end * kPageSize};
    if (!made && run.size() > kHeadStart) {
      MakeRunPresent({run.begin, run.begin + kHeadStart}, from_file);
      run.begin += kHeadStart;
    }
    MakeRunPresent(run, from_file);
    made = true;
    i = end;
  }
  if (made) pagemap_.Read(pages, some);
  // Frames first, this second: a removal that is read later takes the claims.
  if (settling_.Settling(pages) && !ignores) return;
  for (uint64_t i = 0; i < some.size(); ++i) {
    if (!some[i].present) continue;
    results[i] = {.outcome = PageInOutcome::kPresent,
                  .pfn = some[i].pfn,
                  .granted = some[i].uffd_wp ? Access::kRead : Access::kWrite};
  }
}

PageInResult GuestPageSource::PageIn(Hva page, Access access) {
  const PageInGate::PageIn page_in(gate_);
  if (!page_in.MayBringIn(PageRangeOf(page)) && !UNDERFOOT_MUTANT("page-in-ignores-gate")) {
    return Without(PageInOutcome::kAgain);
  }
  // Where a removal settles, an absent page is evidence: then it is looked at first all the same.
  bool told = t_fault != nullptr && t_fault->page() == page &&
              t_fault->kind() != Fault::Kind::kUnknown && settling_.Nothing();
  for (;; told = false) {
    PagemapEntry entry;
    if (!told) {
      const uint64_t before = settling_.Now();
      entry = pagemap_.Read(page);
      if (!entry.present && !entry.swapped) settling_.SawAbsent(page, before);
    }
    if (entry.present && entry.uffd_wp && access == Access::kWrite) {
      switch (LiftProtection(PageRangeOf(page))) {
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
      if (settling_.Settling(PageRangeOf(page))) return Without(PageInOutcome::kSettling);
      return {.outcome = PageInOutcome::kPresent,
              .pfn = entry.pfn,
              .granted = entry.uffd_wp ? Access::kRead : Access::kWrite};
    }
    // Before it is there: whoever waits for it goes on at once, and a scan must not come between.
    if (touch_sink_ && !UNDERFOOT_MUTANT("page-in-is-no-touch")) touch_sink_(page);
    switch (MakePresent(page, told ? ComesFromFile(PageRangeOf(page)) : HasFile())) {
      case UffdOutcome::kDone:
        continue;
      case UffdOutcome::kExists:
        // A swapped page comes in when it is touched, without a userfault; it has no frame to keep
        // now. (The write-protect marker of an absent page looks like a swap entry too: hence after
        // the attempt.)
        if (entry.swapped) return Without(PageInOutcome::kSettling);
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
