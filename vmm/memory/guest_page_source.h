// Where guest pages come from: userfaultfd makes a page present, pagemap names its frame.
//
// A page that is nowhere is a page of zeroes; a page that the memfd still has is mapped as it is.
//
// Thread safety: any thread; see PageSource.

#ifndef UNDERFOOT_VMM_MEMORY_GUEST_PAGE_SOURCE_H_
#define UNDERFOOT_VMM_MEMORY_GUEST_PAGE_SOURCE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "mmu/page_source.h"
#include "mmu/stats.h"
#include "vmm/backing.h"
#include "vmm/memory/own_changes.h"
#include "vmm/memory/page_in_gate.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class GuestPageSource final : public PageSource {
 public:
  GuestPageSource(Userfaultfd& uffd, const Pagemap& pagemap, SettlingRanges& settling,
                  Backing backing)
      : uffd_(uffd), pagemap_(pagemap), settling_(settling), backing_(backing) {}

  // To lift a write protection changes no frame, yet the kernel tells of it: announced there, from
  // before the first page-in.
  void Announce(OwnChanges& changes) { announcements_ = &changes; }

  // Told of each page that is about to be brought in: from before the first page-in. Any thread.
  using TouchSink = std::function<void(Hva page)>;
  void TellTouches(TouchSink sink) { touch_sink_ = std::move(sink); }

  PageInResult PageIn(Hva page, Access access) override;
  // Leaves alone what settles, what is away, what is in swap, and write protection.
  void PageInSome(HvaRange pages, std::span<PageInResult> results) override;

  // Of pages that are elsewhere: to bring one in there says kAgain.
  PageInGate& gate() { return gate_; }

  // Resolutions that met a pending event.
  uint64_t eagain() const { return eagain_.Get(); }

 private:
  UffdOutcome MakePresent(Hva page);
  void MakeRunPresent(HvaRange run);
  UffdOutcome LiftProtection(HvaRange page);

  Userfaultfd& uffd_;
  const Pagemap& pagemap_;
  SettlingRanges& settling_;
  const Backing backing_;
  OwnChanges* announcements_ = nullptr;
  TouchSink touch_sink_;
  PageInGate gate_;
  Counter eagain_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_GUEST_PAGE_SOURCE_H_
