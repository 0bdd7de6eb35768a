// Faults in all pages of a range at once, with the largest leaves that fit.
//
// The handler claims a block of 2 MiB that has no table yet as one entry. It brings the pages in
// while it holds nothing, and publishes them by one compare-exchange: as one leaf if their frames
// are consecutive and aligned, and otherwise as a table that it has filled in private. A page in
// such a table costs one plain store. An invalidation of any part of the block steals the claim,
// and the handler starts again with this block.
//
// A fault of a guest may bring in its whole block in the same way (HandleFault). It waits for
// nothing: if a bracket, a table or another installer is in the way, the caller resolves the fault
// with one page. Pages of the block that the source does not bring in stay holes of the table.
//
//   claim the block ──► bracket in flight over it? ──► page-in ──► look at all 512 frames
//        │ a table, or busy       │                                    │             │
//        ▼                        ▼                    one huge frame: │     else:   ▼
//   nullopt: one page        nullopt: one page         one leaf  ◄─────┘     a table of leaves
//
// Collapse opens and closes a bracket over the block and then does the same. The bracket removes
// the table of small leaves and waits for the readers of the pages that they translated.
//
// Thread safety: any thread, each with its own Reader. Must not be called inside a section, a
// bracket or a read scope.
// Errors: see RangeFaultResult. std::bad_alloc without memory, with no claim left.
// Invariants: as FaultHandler.
// After: kvm_tdp_map_page, KVM_PRE_FAULT_MEMORY and host_pfn_mapping_level in Linux; khugepaged for
// collapse.

#ifndef UNDERFOOT_MMU_RANGE_FAULT_H_
#define UNDERFOOT_MMU_RANGE_FAULT_H_

#include <cstdint>
#include <optional>

#include "mmu/base/types.h"
#include "mmu/fault.h"
#include "mmu/install.h"
#include "mmu/notifier.h"
#include "mmu/page_source.h"
#include "mmu/readers/reader.h"

namespace underfoot {

struct RangeFaultResult {
  // kMapped if each page has its leaf, or has none because the page source answered
  // kRemovalPending. Otherwise the reason why the handler stopped.
  FaultInOutcome outcome;
  Gfn reached;  // all pages before it have been brought in
};

struct BlockFaultResult {
  FaultResult fault;    // of the faulting page: kMapped or kPresent
  uint64_t around = 0;  // the number of other pages that have a leaf now
  bool whole = false;   // one leaf was published for the block
};

class RangeFaultHandler {
 public:
  RangeFaultHandler(const InstallParts& parts, PageSource& source, FaultHandler& faults)
      : parts_(parts), source_(source), faults_(faults) {}

  // The same result as FaultHandler::FaultIn for each page.
  RangeFaultResult FaultIn(const Reader& reader, GfnRange gfns, Access access);

  // Brings in the whole block of `level` (1 or 2) around `gfn` for a fault on that page. Never
  // waits for a bracket or for another installer. If the block is one leaf that does not grant the
  // access, all of it is relaxed, if the frames are still the same. nullopt: the block cannot be had
  // at once, and the caller faults the page in. `context` is handed to the page source.
  std::optional<BlockFaultResult> HandleFault(const Reader& reader, Gfn gfn, unsigned level,
                                              Access access, FaultContext* context);

  // Drops the translations of the block of `level` around `gfn` in a bracket and faults the block
  // in again. It becomes one leaf if the host backs its pages with one block.
  RangeFaultResult Collapse(const Reader& reader, Notifier& notifier, Gfn gfn, unsigned level,
                            Access access);

 private:
  enum class [[nodiscard]] BlockOutcome{
      kDone,
      kPages,    // the caller faults the pages in one by one
      kSmaller,  // the caller tries smaller blocks
      kAgain,
  };

  BlockOutcome FaultInBlock(const Reader& reader, GfnRange block, unsigned level, Access access);
  BlockOutcome FillBlock(Install& install, GfnRange block, unsigned level, Access access);
  std::optional<BlockFaultResult> FillClaimed(Install& install, Gfn gfn, unsigned level,
                                              Pte relaxed, Access access, FaultContext* context);
  RangeFaultResult FaultInPages(const Reader& reader, GfnRange gfns, Access access);

  const InstallParts parts_;
  PageSource& source_;
  FaultHandler& faults_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_RANGE_FAULT_H_
