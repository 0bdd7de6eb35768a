// Pages that the kernel may free at any later time without a report: MADV_FREE leaves an anonymous
// page in place until memory is short, and no userfaultfd event reports when the page is freed.
//
//   Add ──► the page may be freed at any time ──► Take: a call of this process removes its content,
//                                                 so the next page there is a new one
//
// A page that was written since MADV_FREE stays, but user space cannot find out which pages those
// are. A page-in does not end this state either: an MADV_FREE by another process is reported before
// it acts, and it also acts on pages that come in meanwhile. Therefore a page may stay in this set
// after it has stopped being lazily freed. The cost: while the kernel notifier is off, the absence
// of such a page counts as unobserved, and is never counted as an error of userfaultfd.
//
// One bit for each page. Thread safety: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_LAZY_FREES_H_
#define UNDERFOOT_VMM_EVIDENCE_LAZY_FREES_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

class LazyFrees {
 public:
  // `ram` consists of whole pages. A page outside of it is never lazily freed. `ram` is empty if no
  // page can be, as with a memfd.
  explicit LazyFrees(HvaRange ram);

  // Called when MADV_FREE of the range has returned, inside its bracket, and when userfaultfd has
  // reported an MADV_FREE by another process.
  void Add(HvaRange range);
  // Called inside a bracket, before the call. Returns whether the set contained a page of it.
  [[nodiscard]] bool Take(HvaRange range);
  // Called after the call, still inside the bracket: adds the pages again that Take removed and
  // that the call left in place.
  void Return(HvaRange range);

  // Whether the kernel may free some page of the range without a report.
  bool MayGo(HvaRange range) const;

 private:
  static constexpr uint64_t kBits = 64;

  // Calls `visit` with each word that has bits of the range, and those bits.
  template <class Words, class Visit>
  static void ForEach(Words& words, HvaRange ram, HvaRange range, const Visit& visit);

  const HvaRange ram_;
  std::vector<std::atomic<uint64_t>> words_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_LAZY_FREES_H_
