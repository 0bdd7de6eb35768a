// Anonymous memory of 4 KiB pages whose pages come and go.
//
// Thread safety: a value with an owner.

#ifndef UNDERFOOT_TESTS_BENCH_ANONYMOUS_MEMORY_H_
#define UNDERFOOT_TESTS_BENCH_ANONYMOUS_MEMORY_H_

#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdint>

#include "mmu/base/check.h"
#include "mmu/base/types.h"

namespace underfoot::bench {

class AnonymousMemory {
 public:
  explicit AnonymousMemory(uint64_t pages) {
    void* memory = mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    UNDERFOOT_CHECK(memory != MAP_FAILED, "no memory for a benchmark", pages, errno);
    range_ = {HvaOf(memory), HvaOf(memory) + pages * kPageSize};
    static_cast<void>(madvise(memory, range_.size(), MADV_NOHUGEPAGE));  // a hint
  }
  ~AnonymousMemory() { munmap(PointerOf(range_.begin), range_.size()); }
  AnonymousMemory(const AnonymousMemory&) = delete;
  AnonymousMemory& operator=(const AnonymousMemory&) = delete;

  HvaRange range() const { return range_; }
  HvaRange Pages(uint64_t first, uint64_t count) const {
    return PageRangeOf(range_.begin + first * kPageSize, count);
  }
  // A write to a page, which faults it in.
  void Touch(uint64_t page) const {
    std::bit_cast<std::atomic<uint64_t>*>(Pages(page, 1).begin.value)
        ->store(1, std::memory_order::relaxed);
  }

 private:
  HvaRange range_;
};

// madvise(MADV_DONTNEED), which must work.
inline void Discard(HvaRange range) {
  const int result = madvise(PointerOf(range.begin), range.size(), MADV_DONTNEED);
  UNDERFOOT_CHECK(result == 0, "MADV_DONTNEED failed", range.begin.value, errno);
}

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_ANONYMOUS_MEMORY_H_
