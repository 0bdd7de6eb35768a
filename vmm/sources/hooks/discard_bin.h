// Pages leave guest RAM without an event: UFFDIO_MOVE moves them into a bin, memory of this process
// whose events no thread reads, and the bin gives many at once back to the host.
//
//   guest RAM ──MOVE──► bin of kPages ──(full)──► MADV_DONTNEED of all of it
//
// MADV_DONTNEED on guest RAM would hold its caller up until the userfaultfd's reader has read an
// UFFD_EVENT_REMOVE (`./dev bench --filter=discard.1_page`). The price: up to kPages go back to the
// host later.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_SOURCES_HOOKS_DISCARD_BIN_H_
#define UNDERFOOT_VMM_SOURCES_HOOKS_DISCARD_BIN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {

class DiscardBin {
 public:
  static constexpr uint64_t kPages = 256;

  // Unimplemented: the kernel is older than 6.8.
  static absl::StatusOr<std::unique_ptr<DiscardBin>> Create();
  ~DiscardBin();
  DiscardBin(const DiscardBin&) = delete;
  DiscardBin& operator=(const DiscardBin&) = delete;

  // Moves the pages of `range`, at most kPages of private anonymous memory, into the bin. Returns
  // how many bytes were moved. nullopt: some pages may still be in place, because a page that is
  // pinned or shared with a child cannot be moved.
  [[nodiscard]] std::optional<uint64_t> Take(HvaRange range) ABSL_LOCKS_EXCLUDED(mutex_);

  // Whether a UFFDIO_MOVE through this userfaultfd carries pages into the bin.
  bool TakesThrough(int uffd) const { return uffd == uffd_.fd(); }

 private:
  DiscardBin(Userfaultfd uffd, Hva base) : uffd_(std::move(uffd)), base_(base) {}

  std::optional<Hva> Reserve(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  void Drain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // A descriptor of its own: the destination must be registered, and this one reports no events.
  Userfaultfd uffd_;
  const Hva base_;
  // Guards: which places of the bin are in use, and by how many moves. Order: innermost. Held
  // across the madvise that empties the bin; never held across a move, because a move waits for
  // readers.
  absl::Mutex mutex_;
  uint64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t movers_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_HOOKS_DISCARD_BIN_H_
