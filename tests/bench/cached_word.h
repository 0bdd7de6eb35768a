// A pfn cache over one page, read as a device reads a ring: check, load a word, leave; and refresh
// when it was dropped.
//
// Thread safety: each CachedWord belongs to one reading thread; the cache may be shared.

#ifndef UNDERFOOT_TESTS_BENCH_CACHED_WORD_H_
#define UNDERFOOT_TESTS_BENCH_CACHED_WORD_H_

#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>

#include "mmu/base/ordering.h"
#include "mmu/pfn_cache.h"
#include "mmu/readers/reader.h"

namespace underfoot::bench {

class CachedWord {
 public:
  CachedWord(PfnCache& cache, Reader& reader) : cache_(cache), reader_(reader) {}

  // Inlined, as the comparators are.
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    const CacheSection section = cache_.Check(reader_);
    if (!section) return std::nullopt;
    // Relaxed: the guest's word, which anybody may write.
    return std::bit_cast<std::atomic<uint64_t>*>(section.data())[index].load(kRelaxed);
  }

  // Waits out a bracket in flight.
  uint64_t ReadOrRefresh() {
    for (;;) {
      if (const std::optional<uint64_t> value = Read(0)) return *value;
      static_cast<void>(cache_.Refresh(reader_));
    }
  }

 private:
  PfnCache& cache_;
  Reader& reader_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_CACHED_WORD_H_
