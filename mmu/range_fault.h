// Faults in every page of a range at once, with the largest leaves that fit.
//
// A block of 2 MiB that has no table yet is claimed as one entry. Its pages are brought in with
// nothing held, and one compare-exchange publishes them: as one leaf where their frames are
// consecutive and aligned, else as a table that was filled in private. So a page costs a plain
// store. An invalidation of any part of the block steals the claim, and the block starts again.
//
// Collapse is this after a bracket over the block: the bracket makes the table of small leaves go,
// and waits for the readers of what they translated.
//
// Thread safety: any thread, each with its own Reader; never inside a section, a bracket or a read
// scope. Invariants: as FaultHandler.

#ifndef UNDERFOOT_MMU_RANGE_FAULT_H_
#define UNDERFOOT_MMU_RANGE_FAULT_H_

#include "mmu/fault.h"
#include "mmu/notifier.h"

namespace underfoot {

struct RangeFaultResult {
  // kMapped when each page has its leaf, or settles and has none; else why it stopped: kNoMemslot,
  // kReadOnly, kFailed.
  FaultOutcome outcome;
  Gfn reached;  // everything before has been brought in
};

class RangeFaultHandler {
 public:
  RangeFaultHandler(const MemslotTable& memslots, Stage2& stage2, const InFlightRanges& in_flight,
                    PageSource& source, FaultHandler& faults)
      : memslots_(memslots),
        stage2_(stage2),
        in_flight_(in_flight),
        source_(source),
        faults_(faults) {}

  // As FaultHandler::FaultIn of each page.
  RangeFaultResult FaultIn(const Reader& reader, GfnRange gfns, Access access);

  // Brings the block of `level` around `gfn` in again after dropping what is mapped there, so that
  // it becomes one leaf if the host has made its pages one block.
  RangeFaultResult Collapse(const Reader& reader, Notifier& notifier, Gfn gfn, unsigned level,
                            Access access);

 private:
  enum class [[nodiscard]] BlockOutcome{
      kDone,
      kPages,    // page by page
      kSmaller,  // in smaller blocks
      kAgain,
  };

  BlockOutcome FaultInBlock(const Reader& reader, GfnRange block, unsigned level, Access access);
  BlockOutcome FillBlock(const Reader& reader, const Memslot& slot, GfnRange block, unsigned level,
                         Access access);
  RangeFaultResult FaultInPages(const Reader& reader, GfnRange gfns, Access access);

  const MemslotTable& memslots_;
  Stage2& stage2_;
  const InFlightRanges& in_flight_;
  PageSource& source_;
  FaultHandler& faults_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_RANGE_FAULT_H_
