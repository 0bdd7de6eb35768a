#include "vmm/ram/huge_page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "vmm/base/backing.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/thread_priority.h"
#include "vmm/ram/aligned_mapping.h"

namespace underfoot {
namespace {

constexpr uint64_t kPoolBytes = HugePagePool::kPlaces * kBlockBytes;

}  // namespace

absl::StatusOr<std::unique_ptr<HugePagePool>> HugePagePool::Create() {
  void* const base =
      MapAligned(kPoolBytes, kBlockBytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (base == MAP_FAILED) return absl::ErrnoToStatus(errno, "mmap of the pool of huge pages");
  static_cast<void>(madvise(base, kPoolBytes, MADV_HUGEPAGE));  // a hint
  static_cast<void>(madvise(base, kPoolBytes, MADV_DONTFORK));
  return std::unique_ptr<HugePagePool>(new HugePagePool(HvaOf(base)));
}

HugePagePool::~HugePagePool() {
  Stop();
  static_cast<void>(munmap(PointerOf(base_), kPoolBytes));
}

absl::Status HugePagePool::Start() {
  return StartThread(thread_, "the pool of huge pages", [this] { Main(); });
}

void HugePagePool::Stop() {
  if (!thread_.joinable()) return;
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

Hva HugePagePool::BlockAt(size_t place) const { return base_ + place * kBlockBytes; }

bool HugePagePool::Fill(size_t place) const {
  return madvise(PointerOf(BlockAt(place)), kBlockBytes, MADV_POPULATE_WRITE) == 0;
}

std::optional<size_t> HugePagePool::Reserve(Place from) {
  const auto* const found = std::find(places_.begin(), places_.end(), from);
  if (found == places_.end()) return std::nullopt;
  const auto place = static_cast<size_t>(found - places_.begin());
  places_[place] = Place::kBusy;
  return place;
}

bool HugePagePool::HasWork() const {
  return stop_ || (std::count(places_.begin(), places_.end(), Place::kReady) <
                       static_cast<ptrdiff_t>(kReady) &&
                   std::count(places_.begin(), places_.end(), Place::kEmpty) != 0);
}

void HugePagePool::Main() {
  NameThisThread("huge-page-pool");
  for (;;) {
    std::optional<size_t> place;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(this, &HugePagePool::HasWork));
      if (stop_) return;
      place = Reserve(Place::kEmpty);
    }
    const bool filled = Fill(*place);
    absl::MutexLock lock(&mutex_);
    // Without memory, the thread ends: Take tries again when a page is needed.
    places_[*place] = filled ? Place::kReady : Place::kEmpty;
    if (!filled) return;
  }
}

std::optional<Hva> HugePagePool::Take() {
  std::optional<size_t> place;
  {
    absl::MutexLock lock(&mutex_);
    place = Reserve(Place::kReady);
    if (place.has_value()) return BlockAt(*place);
    place = Reserve(Place::kEmpty);
  }
  if (!place.has_value()) return std::nullopt;
  const Hva block = BlockAt(*place);
  if (Fill(*place)) return block;
  Return(block, false);
  return std::nullopt;
}

void HugePagePool::Return(Hva block, bool all_moved) {
  if (!all_moved) static_cast<void>(madvise(PointerOf(block), kBlockBytes, MADV_DONTNEED));
  absl::MutexLock lock(&mutex_);
  places_[(block - base_) / kBlockBytes] = Place::kEmpty;
}

}  // namespace underfoot
