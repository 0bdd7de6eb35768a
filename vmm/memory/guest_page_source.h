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

  // What the kernel says of a page that somebody waits for. While it lives, its thread's page-ins
  // try that first, and look at the page only afterwards.
  class Fault {
   public:
    enum class Kind : uint8_t {
      kUnknown,  // look first
      kMissing,  // it is nowhere
      kMinor,    // the file has it
    };
    Fault(Hva page, Kind kind);
    ~Fault();
    Fault(const Fault&) = delete;
    Fault& operator=(const Fault&) = delete;

    Hva page() const { return page_; }
    Kind kind() const { return kind_; }
    // The page was brought in by this thread, and the kernel has woken who waited for it.
    bool woken() const { return woken_; }

   private:
    friend class GuestPageSource;
    const Hva page_;
    const Kind kind_;
    bool woken_ = false;
  };

  // Of pages that are elsewhere: to bring one in there says kAgain.
  PageInGate& gate() { return gate_; }
  const Pagemap& pagemap() const { return pagemap_; }

  // Resolutions that met a pending event.
  uint64_t eagain() const { return eagain_.Get(); }

 private:
  UffdOutcome MakePresent(Hva page, bool from_file);
  void MakeRunPresent(HvaRange run, bool& from_file);
  bool HasFile() const { return backing_ == Backing::kMemfd; }
  bool ComesFromFile(HvaRange pages) const;
  UffdProgress BringIn(HvaRange pages, bool from_file);
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
