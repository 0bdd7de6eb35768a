// A userfaultfd: opened with what the coherence of guest memory needs, its ioctls as outcomes.
//
// Thread safety: any thread.
// After: Documentation/admin-guide/mm/userfaultfd.rst and fs/userfaultfd.c in Linux.

#ifndef UNDERFOOT_VMM_RAM_USERFAULTFD_H_
#define UNDERFOOT_VMM_RAM_USERFAULTFD_H_

#include <linux/userfaultfd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"
#include "vmm/base/backing.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

enum class [[nodiscard]] UffdOutcome : uint8_t{
    kDone,
    kExists,  // the page is there already
    kAgain,   // EAGAIN: an event of this mm is waiting to be read, or the mm is changing (R3)
    kNoPage,  // CONTINUE: the page cache has no such page
    kGone,    // no such mapping, or its process is ending
    kFailed,  // anything else: out of memory
};

// The number of pages for which the call succeeded, and the outcome for the first page after them.
// kDone: that page was not tried.
struct UffdProgress {
  UffdOutcome outcome;
  uint64_t pages;
};

// Which events the descriptor reports besides faults. See "The cost of removals" in
// vmm/sources/README.md.
enum class UffdEvents : uint8_t {
  kAll,         // removals, unmaps, moves, forks
  kNoRemovals,  // all but removals: the caller of madvise does not wait for the reader
  kNone,
};

struct UffdOptions {
  UffdEvents events = UffdEvents::kAll;
  bool async_write_protect = false;  // the kernel resolves write-protect faults itself: 6.7
  bool move = false;                 // UFFDIO_MOVE must be there: 6.8
  // Of the pages that are brought in: larger than kPageSize for hugetlb memory.
  uint64_t page_bytes = kPageSize;
};

struct UnmapBytes {
  uint64_t bytes = 0;
  void operator()(void* base) const;
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
  // UFFDIO_MOVE of the private pages from `from` on, which no other thread uses. A huge page moves
  // as it is if the kernel has no page table for its new place. Linux 6.8.
  UffdProgress MoveIn(Hva from, HvaRange pages);
  UffdProgress Continue(HvaRange pages);
  UffdOutcome WriteProtect(HvaRange range, bool protect);
  void Wake(HvaRange range);

  // Returns the number of messages that were read; 0 if none waits. ResourceExhausted: the next
  // event is a fork event, for which the kernel needs a free descriptor, and there is none, not
  // even the reserve. The fork event and all events behind it stay in the queue.
  absl::StatusOr<size_t> Read(std::span<uffd_msg> messages);

  int fd() const { return fd_.get(); }
  UffdEvents events() const { return events_; }
  // Whether UFFDIO_MOVE works through it.
  bool moves() const { return moves_; }

 private:
  // An anonymous mapping that is only read: the kernel shows its page of zeroes everywhere.
  using ZeroMapping = std::unique_ptr<void, UnmapBytes>;

  Userfaultfd(UniqueFd fd, const UffdOptions& options, ZeroMapping zeroes)
      : fd_(std::move(fd)),
        events_(options.events),
        moves_(options.move),
        zeroes_(std::move(zeroes)) {
    KeepReserve();
  }
  static absl::StatusOr<ZeroMapping> MapZeroes(uint64_t bytes);
  void KeepReserve();
  absl::StatusOr<size_t> ReadByReserve(std::span<uffd_msg> messages);

  UniqueFd fd_;
  // A descriptor that is given up to read a fork event when the process has no other: until the
  // event is read the kernel resolves no fault of this mm.
  struct Reserve {
    std::atomic<bool> kept{false};  // a guess, to take no lock before each read
    // Guards: the descriptor. Order: innermost. It is held while a descriptor is opened, and across
    // the read for which the reserve was given up: another thread must not fill the reserve in
    // between. That read does not block.
    absl::Mutex mutex;
    UniqueFd fd ABSL_GUARDED_BY(mutex);
  };
  std::unique_ptr<Reserve> reserve_ = std::make_unique<Reserve>();
  UffdEvents events_;
  bool moves_;
  ZeroMapping zeroes_;  // of a hugetlb page; null without such pages
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_USERFAULTFD_H_
