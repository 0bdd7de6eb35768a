// Pages that may go at any later time without a word: MADV_FREE leaves an anonymous page where it
// is until memory is short, and no userfaultfd event tells of its end.
//
//   Add ──► may go ──► Take, when its content goes by a call of ours: the page after it is another
//
// Which of them were written since, and stay, user space does not learn; nor does a page-in end it,
// for a foreign MADV_FREE is told before it acts, and acts upon what came in meanwhile. So a page
// stays in here longer than it is lazy. What that costs: where the kernel's notifier is off, a page
// of these that somebody took without a word is unobserved, and never userfaultfd's fault.
//
// One bit a page. Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_LAZY_FREES_H_
#define UNDERFOOT_VMM_MEMORY_LAZY_FREES_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "mmu/types.h"

namespace underfoot {

class LazyFrees {
 public:
  // Of `ram`, whole pages; what lies outside is never lazy. Empty where nothing can be: a memfd.
  explicit LazyFrees(HvaRange ram);

  // MADV_FREE of the range has returned, inside of its bracket; or one of a foreigner was told.
  void Add(HvaRange range);
  // Inside of a bracket, before the call. True when some page was in.
  [[nodiscard]] bool Take(HvaRange range);
  // After the call, still inside: what Take took and the call left where it was.
  void Return(HvaRange range);

  // Whether some page of the range may go.
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

#endif  // UNDERFOOT_VMM_MEMORY_LAZY_FREES_H_
