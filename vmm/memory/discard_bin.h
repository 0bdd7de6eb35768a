// Pages leave guest RAM without an event: UFFDIO_MOVE carries them to memory of ours that nobody is
// told about, and many at once are given back from there.
//
//   guest RAM ──MOVE──► bin of kPages ──(full)──► MADV_DONTNEED of all of it
//
// MADV_DONTNEED on guest RAM would hold its caller up until the userfaultfd's reader has read an
// UFFD_EVENT_REMOVE, 8 to 47 us. The price: up to kPages go back to the host later.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_DISCARD_BIN_H_
#define UNDERFOOT_VMM_MEMORY_DISCARD_BIN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/types.h"
#include "vmm/memory/userfaultfd.h"

namespace underfoot {

class DiscardBin {
 public:
  static constexpr uint64_t kPages = 256;

  // Unimplemented: the kernel is older than 6.8.
  static absl::StatusOr<std::unique_ptr<DiscardBin>> Create();
  ~DiscardBin();
  DiscardBin(const DiscardBin&) = delete;
  DiscardBin& operator=(const DiscardBin&) = delete;

  // Moves the pages of `range` out, which is private anonymous memory of at most kPages. False:
  // some may still be there. A page that is pinned or shared with a child cannot be moved.
  [[nodiscard]] bool Take(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  DiscardBin(Userfaultfd uffd, Hva base) : uffd_(std::move(uffd)), base_(base) {}

  std::optional<Hva> Reserve(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Drain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // One of its own: the destination must be registered, and here nobody is told of what goes.
  Userfaultfd uffd_;
  const Hva base_;
  // Guards: whose the places of the bin are. Order: innermost; held across the bin's own madvise,
  // never across a move, which waits for readers.
  absl::Mutex mutex_;
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t movers_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_DISCARD_BIN_H_
