// Huge pages of zeroes that are ready before the guest touches the block that they will back.
//
//   a thread of the pool ──fills──► ready ──Take──► UFFDIO_MOVE into guest RAM ──Return──► empty
//
// To clear 2 MiB takes the host much longer than to move a huge page that is clear. If the guest is
// faster than the thread, Take clears a page itself.
//
// Whether the host really had a huge page is not checked here: if it had none, the pages of the
// block come in all the same, and the look at their frames says so.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_RAM_HUGE_PAGE_POOL_H_
#define UNDERFOOT_VMM_RAM_HUGE_PAGE_POOL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/types.h"

namespace underfoot {

class HugePagePool {
 public:
  static constexpr size_t kReady = 4;    // that the thread keeps
  static constexpr size_t kPlaces = 16;  // most pages that may be ready, or on their way, at once

  static absl::StatusOr<std::unique_ptr<HugePagePool>> Create();
  ~HugePagePool();
  HugePagePool(const HugePagePool&) = delete;
  HugePagePool& operator=(const HugePagePool&) = delete;

  // Without the thread each Take clears its page.
  [[nodiscard]] absl::Status Start();
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Private memory of kBlockBytes, aligned, with all pages present. nullopt: all places are in use,
  // or the host has no memory.
  std::optional<Hva> Take() ABSL_LOCKS_EXCLUDED(mutex_);
  // Each Take must be followed by one Return. `all_moved`: no page of the block is left.
  void Return(Hva block, bool all_moved) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  enum class Place : uint8_t { kEmpty, kBusy, kReady };

  explicit HugePagePool(Hva base) : base_(base) {}
  Hva BlockAt(size_t place) const;
  bool Fill(size_t place) const;
  std::optional<size_t> Reserve(Place from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void Main() ABSL_LOCKS_EXCLUDED(mutex_);

  const Hva base_;
  // Guards: what each place holds. Order: innermost. Never held while a page is cleared.
  absl::Mutex mutex_;
  std::array<Place, kPlaces> places_ ABSL_GUARDED_BY(mutex_){};
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_HUGE_PAGE_POOL_H_
