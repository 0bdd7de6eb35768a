#include "mmu/stage2/table_memory.h"

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <span>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/sync_point.h"
#include "mmu/stage2/table.h"

namespace underfoot::table_memory {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDERFOOT_TABLES_APART 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDERFOOT_TABLES_APART 1
#endif
#endif

#ifdef UNDERFOOT_TABLES_APART

void* Allocate() {
  UNDERFOOT_SYNC_POINT("table-memory");
  return ::operator new (sizeof(Table), std::align_val_t{alignof(Table)});
}
void Free(void* room) { ::operator delete (room, std::align_val_t{alignof(Table)}); }

#else

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// A small machine has no more tables than these, and does not pay for a huge page.
constexpr size_t kFirstChunkBytes = 32 * sizeof(Table);

class Pool {
 public:
  void* Allocate() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (free_ != nullptr) return std::exchange(free_, free_->next);
    if (fresh_.size() < sizeof(Table)) AddChunkLocked();
    void* const room = fresh_.data();
    fresh_ = fresh_.subspan(sizeof(Table));
    return room;
  }

  void Free(void* memory) ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    free_ = new (memory) Room{free_};
  }

 private:
  struct Room {
    Room* next;
  };

  void AddChunkLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const size_t bytes = chunk_bytes_;
    const std::align_val_t align{bytes == kHugePage ? kHugePage : alignof(Table)};
    fresh_ = {static_cast<std::byte*>(::operator new(bytes, align)), bytes};
    chunk_bytes_ = kHugePage;
    // The kernel may ignore this advice; the tables then lie in small pages.
    if (bytes == kHugePage) static_cast<void>(madvise(fresh_.data(), bytes, MADV_HUGEPAGE));
  }

  // Guards: the free list and the rest of the last chunk. Order: group 2, innermost. Held across: a
  // list operation, or the allocation of a chunk. Never held across: any wait.
  absl::Mutex mutex_;
  Room* free_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::span<std::byte> fresh_ ABSL_GUARDED_BY(mutex_);  // not touched yet
  size_t chunk_bytes_ ABSL_GUARDED_BY(mutex_) = kFirstChunkBytes;
};

Pool& ThePool() {
  // Never destroyed, because deferred calls may free tables until the process ends.
  static Pool& pool = *new Pool;
  return pool;
}

}  // namespace

void* Allocate() {
  UNDERFOOT_SYNC_POINT("table-memory");  // a test makes it throw
  return ThePool().Allocate();
}
void Free(void* room) { ThePool().Free(room); }

#endif

}  // namespace underfoot::table_memory
