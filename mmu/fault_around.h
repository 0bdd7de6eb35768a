// A fault that also brings neighbouring pages in. The path that hands a fault to its handler and
// back costs many times what a page costs, so the handler also installs pages that are likely to be
// touched next.
//
//   claim what is empty in the window -> bracket in flight over the window? -> one page-in
//          |                                  | give all back                    |
//          |                                  v                                  v
//          +-- the page itself is not empty: a fault of one page         publish each by itself
//
// Only the faulting page matters to the caller. A neighbour that is claimed, present, or stolen
// meanwhile is left as it is; the handler waits for no other thread and lifts no write protection
// for a neighbour. The search for a bracket comes after all claims (P1.2), so its result holds for
// each of them. The thread holds several claims with one tag, but never two claims of one entry.
//
// Thread safety: as FaultHandler.
// Errors: those of FaultHandler::HandleFault for the faulting page; none for neighbours.
// std::bad_alloc leaves no claim.
// Invariants: I1, I5, I9.
// After: do_fault_around in mm/memory.c of Linux.

#ifndef UNDERFOOT_MMU_FAULT_AROUND_H_
#define UNDERFOOT_MMU_FAULT_AROUND_H_

#include <cstdint>
#include <optional>
#include <span>

#include "mmu/base/types.h"
#include "mmu/fault.h"
#include "mmu/install.h"
#include "mmu/page_source.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/pte.h"

namespace underfoot {

struct FaultAroundResult {
  FaultResult fault;    // of the faulting page, as FaultHandler::HandleFault
  uint64_t around = 0;  // the number of other leaves published
};

class FaultAroundHandler {
 public:
  // A window lies within one table, so it needs no table other than the one of the faulting page.
  static constexpr uint64_t kMaxPages = kEntries;

  FaultAroundHandler(const InstallParts& parts, PageSource& source, FaultHandler& faults)
      : parts_(parts), source_(source), faults_(faults) {}

  // Waits for no other thread, as FaultHandler::HandleFault. Uses the part of `window` that lies in
  // the same memslot and table as `gfn`. `context` is handed to the page source.
  FaultAroundResult HandleFault(const Reader& reader, Gfn gfn, GfnRange window, Access access,
                                FaultContext* context = nullptr);

  // The same without a faulting page. Uses the part of `window` that lies in the same memslot and
  // table as its first page. Returns the number of leaves that were published.
  uint64_t BringIn(const Reader& reader, GfnRange window, FaultContext* context = nullptr);

 private:
  struct Window {
    GfnRange gfns;
    std::optional<Gfn> faulting;
    Access access = Access::kRead;  // of the faulting page
    FaultContext* context = nullptr;
  };

  FaultAroundResult InstallWindow(const Reader& reader, Window window);
  static bool Claim(Install& install, const Window& window);
  void PageIn(const Install& install, const Window& window, std::span<PageInResult> in);
  static FaultAroundResult Publish(Install& install, const Window& window,
                                   std::span<const PageInResult> in);

  const InstallParts parts_;
  PageSource& source_;
  FaultHandler& faults_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_FAULT_AROUND_H_
