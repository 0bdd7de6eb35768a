// Where guest pages come from: userfaultfd makes a page present, pagemap names its frame.
//
// A page that is nowhere is a page of zeroes; a page that the memfd still has is mapped as it is.
// With hugetlb memory a page comes in with its whole huge page, since the host has no smaller part.
// With transparent huge pages a block of which no page is there comes in as one huge page, if it is
// asked for as a whole (PageInSome) and the host has one.
//
// Thread safety: any thread; see PageSource.

#ifndef UNDERFOOT_VMM_RAM_GUEST_PAGE_SOURCE_H_
#define UNDERFOOT_VMM_RAM_GUEST_PAGE_SOURCE_H_

#include <cstdint>
#include <functional>
#include <span>
#include <utility>

#include "mmu/base/stats.h"
#include "mmu/page_source.h"
#include "vmm/base/backing.h"
#include "vmm/evidence/own_changes.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/ram/page_in_gate.h"
#include "vmm/ram/pagemap.h"
#include "vmm/ram/ram_log.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {

class FileHoles;
class HugePagePool;

struct GuestPageSourceOptions {
  // The source announces here that it lifts a write protection, because the kernel reports that,
  // although no frame changes. nullptr: nothing is announced.
  OwnChanges* announcements = nullptr;
  // Receives each page that is about to be brought in, on any thread.
  std::function<void(Hva page)> touch_sink = nullptr;
  // The first pages of a window that are brought in by a call of their own. Each call wakes the
  // threads that wait for its pages: a vCPU on another CPU goes on while the rest comes in, and does
  // not catch up. 0: the window is one call, which costs less if the handler runs on the CPU of the
  // vCPU.
  uint64_t head_start = 0;
  // Where a page is marked that becomes zeroes: its content was discarded, and the next reader sees
  // that. nullptr: writes are not logged.
  RamLog* log = nullptr;
  HugePages huge_pages = HugePages::kOff;
  // Transparent huge pages for private memory, and for a memfd. nullptr: blocks come in as small
  // pages.
  HugePagePool* pool = nullptr;
  const FileHoles* holes = nullptr;
};

class GuestPageSource final : public PageSource {
 public:
  GuestPageSource(Userfaultfd& uffd, const Pagemap& pagemap, PendingRemovals& removals,
                  Backing backing, GuestPageSourceOptions options = {})
      : uffd_(uffd),
        pagemap_(pagemap),
        pending_(removals),
        backing_(backing),
        announcements_(options.announcements),
        touch_sink_(std::move(options.touch_sink)),
        head_start_bytes_(options.head_start * kPageSize),
        log_(options.log),
        huge_pages_(options.huge_pages),
        pool_(options.pool),
        holes_(options.holes) {}

  // `context`: a Fault of this class, or nullptr. If the page has come in for the fault and is gone
  // again, the answer is kAgain, and the Fault is woken(): the page is not brought in twice.
  PageInResult PageIn(Hva page, Access access, FaultContext* context) override;
  // Brings in no page on which a removal may be under way, that has been moved away, or that is in
  // swap; lifts no write protection.
  void PageInSome(HvaRange pages, std::span<PageInResult> results, FaultContext* context) override;

  // What the kernel reported about the page of a fault. The page-ins that are made for the fault
  // first try what the report suggests, and look at the page only afterwards.
  class Fault final : public FaultContext {
   public:
    enum class Kind : uint8_t {
      kUnknown,  // look first
      kMissing,  // it is nowhere
      kMinor,    // the file has it
    };
    Fault(Hva page, Kind kind) : page_(page), kind_(kind) {}
    Fault(const Fault&) = delete;
    Fault& operator=(const Fault&) = delete;

    Hva page() const { return page_; }
    Kind kind() const { return kind_; }
    // The page was brought in for this fault, and the kernel has woken the threads that waited for
    // it.
    bool woken() const { return woken_; }

   private:
    friend class GuestPageSource;
    const Hva page_;
    const Kind kind_;
    bool woken_ = false;
  };

  // What the host can only take, protect or bring in as a whole: the page, or its hugetlb page.
  HvaRange HostPageOf(Hva page) const {
    const uint64_t bytes = HostPageBytes(huge_pages_);
    const Hva begin{page.value / bytes * bytes};
    return {begin, begin + bytes};
  }
  HugePages huge_pages() const { return huge_pages_; }

  // The gate for ranges whose pages have been moved away for a moment: PageIn of such a page
  // returns kAgain.
  PageInGate& gate() { return gate_; }
  const Pagemap& pagemap() const { return pagemap_; }

  // Resolutions that met a pending event.
  uint64_t eagain() const { return eagain_.Get(); }

 private:
  UffdOutcome MakePresent(Hva page, bool from_file, Fault* fault);
  UffdOutcome MakeHostPagePresent(HvaRange host_page, bool from_file, Fault* fault);
  bool BringInHugePage(HvaRange block, bool& from_file, Fault* fault);
  bool IsGiantFrame(Hva page, Pfn pfn) const;
  void MakeRunPresent(HvaRange run, bool& from_file, Fault* fault);
  bool HasFile() const { return backing_ == Backing::kMemfd; }
  bool ComesFromFile(HvaRange pages, const Fault* fault) const;
  void MarkZeroes(HvaRange pages);
  UffdProgress BringIn(HvaRange pages, bool from_file, Fault* fault);
  UffdOutcome LiftProtection(HvaRange page);

  Userfaultfd& uffd_;
  const Pagemap& pagemap_;
  PendingRemovals& pending_;
  const Backing backing_;
  OwnChanges* const announcements_;
  const std::function<void(Hva page)> touch_sink_;
  const uint64_t head_start_bytes_;
  RamLog* const log_;
  const HugePages huge_pages_;
  HugePagePool* const pool_;
  const FileHoles* const holes_;
  PageInGate gate_;
  Counter eagain_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_GUEST_PAGE_SOURCE_H_
