#include "vmm/memory/guest_page_source.h"

#include "mmu/mutant.h"

namespace underfoot {
namespace {

constexpr PageInResult Without(PageInOutcome outcome) { return {outcome, Pfn{}, Access::kRead}; }

}  // namespace

UffdOutcome GuestPageSource::MakePresent(Hva page) {
  if (backing_ == Backing::kMemfd) {
    const UffdOutcome mapped = uffd_.Continue(page);
    if (mapped != UffdOutcome::kNoPage) return mapped;
  }
  return uffd_.CopyZeroes(page);
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

PageInResult GuestPageSource::PageIn(Hva page, Access access) {
  const PageInGate::PageIn page_in(gate_);
  if (!page_in.MayBringIn(PageRangeOf(page)) && !UNDERFOOT_MUTANT("page-in-ignores-gate")) {
    return Without(PageInOutcome::kAgain);
  }
  for (;;) {
    const uint64_t before = settling_.Now();
    const PagemapEntry entry = pagemap_.Read(page);
    if (!entry.present && !entry.swapped) settling_.SawAbsent(page, before);
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
    switch (MakePresent(page)) {
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
