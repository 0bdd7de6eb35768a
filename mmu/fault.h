// The fault path: from a gfn without translation to a published leaf (P1, mmu/install.h), with
// nothing held while the page is brought in.
//
//   memslot -> claim the entry -> bracket in flight? -> page-in -> publish
//                  |                  |                              |
//                  | busy             | give the claim back,         | stolen by an invalidation:
//                  v                  v report the bracket           v from the start
//
// A fault is never retried because of an unrelated range. It is retried at most twice for each
// overlapping bracket: once because its claim is lost, and once because it waits for the End.
//
// Thread safety: any thread, each with its own Reader; never inside a section, a bracket or a read
// scope. Invariants: I1, I8, I9, I11.

#ifndef UNDERFOOT_MMU_FAULT_H_
#define UNDERFOOT_MMU_FAULT_H_

#include "mmu/base/types.h"
#include "mmu/in_flight_ranges.h"
#include "mmu/install.h"
#include "mmu/page_in_retries.h"
#include "mmu/page_source.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/pte.h"

namespace underfoot {

enum class [[nodiscard]] FaultOutcome{
    kMapped,          // this call published the leaf
    kPresent,         // a leaf granted the access already
    kBlocked,         // an invalidation of the page is in flight: wait for `bracket`
    kBusy,            // another thread is bringing the page in
    kAgain,           // lost to an invalidation, or the page source answered kAgain: retry
    kRemovalPending,  // use the page by hva, keep no translation
    kNoMemslot,       // the gfn lies in no memslot
    kReadOnly,        // a write to a read-only memslot
    kFailed,  // the page source cannot bring it in, and no bracket that began since explains it
};

struct FaultResult {
  FaultOutcome outcome;
  Pte pte;  // kMapped, kPresent: the leaf, with the pfn of this very page
  InFlightRanges::Bracket bracket;
  bool source_is_busy = false;  // kAgain is the answer of the page source
};

enum class [[nodiscard]] FaultInOutcome{
    kMapped,          // a leaf grants the access
    kRemovalPending,  // as in FaultOutcome
    kNoMemslot,      kReadOnly,
    kAgain,  // the page source has answered kAgain for as long as PageInRetries allows
    kFailed,
};

struct FaultInResult {
  FaultInOutcome outcome;
  Pte pte;  // kMapped: the leaf, with the pfn of this very page
};

class FaultHandler {
 public:
  FaultHandler(const InstallParts& parts, PageSource& source,
               unsigned page_in_tries = PageInRetries::kMost)
      : parts_(parts), source_(source), page_in_tries_(page_in_tries) {}

  // Never waits for a bracket or another installer; it sleeps only inside the page source, or for a
  // grace period when it has helped to unlink tables and too many are retired. If it throws
  // (std::bad_alloc for a table, or an exception of the page source), no claim is left.
  // `context` is handed to the page source.
  FaultResult HandleFault(const Reader& reader, Gfn gfn, Access access,
                          FaultContext* context = nullptr);

  // As HandleFault, but waits out kBlocked, kBusy and kAgain.
  FaultInResult FaultIn(const Reader& reader, Gfn gfn, Access access);

 private:
  FaultResult UsePresent(Gfn gfn, Access access);
  FaultResult Fill(Install& install, Gfn gfn, Access access, FaultContext* context);

  const InstallParts parts_;
  PageSource& source_;
  const unsigned page_in_tries_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_FAULT_H_
