#include "mmu/table_memory.h"

#include <sys/mman.h>

#include <new>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/table.h"

namespace underfoot::table_memory {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDERFOOT_TABLES_APART 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNDERFOOT_TABLES_APART 1
#endif
#endif

#ifdef UNDERFOOT_TABLES_APART

void* Allocate() { return ::operator new (sizeof(Table), std::align_val_t{alignof(Table)}); }
void Free(void* room) { ::operator delete (room, std::align_val_t{alignof(Table)}); }

#else

namespace {

constexpr size_t kChunkBytes = size_t{2} << 20;

class Pool {
 public:
  void* Allocate() ABSL_LOCKS_EXCLUDED(mutex_) {
    absl::MutexLock lock(&mutex_);
    if (free_ == nullptr) AddChunkLocked();
    Room* room = free_;
    free_ = room->next;
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
    auto* chunk =
        static_cast<std::byte*>(::operator new (kChunkBytes, std::align_val_t{kChunkBytes}));
    // Advice: without huge pages the tables lie in small ones.
    static_cast<void>(madvise(chunk, kChunkBytes, MADV_HUGEPAGE));
    for (size_t at = kChunkBytes / sizeof(Table); at-- > 0;) {
      free_ = new (chunk + at * sizeof(Table)) Room{free_};
    }
  }

  // Guards: the free list. Order: innermost. Held across a list operation or the allocation of a
  // chunk; never across a wait.
  absl::Mutex mutex_;
  Room* free_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

Pool& ThePool() {
  static Pool& pool = *new Pool;  // never ends: deferred calls may free tables to the very last
  return pool;
}

}  // namespace

void* Allocate() { return ThePool().Allocate(); }
void Free(void* room) { ThePool().Free(room); }

#endif

}  // namespace underfoot::table_memory
