// A userfaultfd: opened with what the coherence of guest memory needs, its ioctls as outcomes.
//
// Thread safety: any thread.
// After: Documentation/admin-guide/mm/userfaultfd.rst and fs/userfaultfd.c in Linux.

#ifndef UNDERFOOT_VMM_MEMORY_USERFAULTFD_H_
#define UNDERFOOT_VMM_MEMORY_USERFAULTFD_H_

#include <linux/userfaultfd.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "vmm/backing.h"
#include "vmm/unique_fd.h"

namespace underfoot {

enum class [[nodiscard]] UffdOutcome : uint8_t{
    kDone,
    kExists,  // the page is there already
    kAgain,   // EAGAIN: an event of this mm is waiting to be read, or the mm is changing (R3)
    kNoPage,  // CONTINUE: the page cache has no such page
    kGone,    // no such mapping, or its process is ending
    kFailed,  // anything else: out of memory
};

// How many pages were done, and what came of the one behind them; kDone: nothing is known of it.
struct UffdProgress {
  UffdOutcome outcome;
  uint64_t pages;
};

// What the descriptor tells of besides faults. See the section "removals" in vmm/README.md.
enum class UffdEvents : uint8_t {
  kAll,         // removals, unmaps, moves, forks
  kNoRemovals,  // the same, and removals go untold: nobody waits for the reader of one
  kNone,
};

struct UffdOptions {
  UffdEvents events = UffdEvents::kAll;
  bool async_write_protect = false;  // the kernel resolves write-protect faults itself: 6.7
  bool move = false;                 // UFFDIO_MOVE must be there: 6.8
};

class Userfaultfd {
 public:
  // Non-blocking. The error names the right or the kernel that is missing and how to get it.
  static absl::StatusOr<Userfaultfd> Open(const UffdOptions& options = {});

  // Missing and write-protect faults, and minor faults for a memfd. `range` in whole pages.
  [[nodiscard]] absl::Status Register(HvaRange range, Backing backing);

  // A page of zeroes, writable: not the shared zero page, which a later write would have to
  // replace.
  UffdOutcome CopyZeroes(Hva page) { return CopyZeroes(PageRangeOf(page)).outcome; }
  // Maps what the page cache has.
  UffdOutcome Continue(Hva page) { return Continue(PageRangeOf(page)).outcome; }
  // Several pages, in their order, up to the first that has another outcome than kDone. Of long
  // ranges only a part may be tried: kDone, and fewer pages.
  UffdProgress CopyZeroes(HvaRange pages);
  UffdProgress Continue(HvaRange pages);
  UffdOutcome WriteProtect(HvaRange range, bool protect);
  void Wake(HvaRange range);

  // How many messages were read; 0 when none is waiting.
  absl::StatusOr<size_t> Read(std::span<uffd_msg> messages);

  int fd() const { return fd_.get(); }
  UffdEvents events() const { return events_; }

 private:
  Userfaultfd(UniqueFd fd, UffdEvents events) : fd_(std::move(fd)), events_(events) {}

  UniqueFd fd_;
  UffdEvents events_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_USERFAULTFD_H_
