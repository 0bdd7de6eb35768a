#include "tests/bench/free_tables.h"

#include <x86intrin.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

#include "mmu/base/rcu.h"
#include "mmu/stage2/table.h"
#include "mmu/stage2/table_memory.h"

namespace underfoot::bench {
namespace {

constexpr size_t kCacheLine = 64;

void Evict(const void* memory, size_t size) {
  const auto* bytes = static_cast<const std::byte*>(memory);
  for (size_t at = 0; at < size; at += kCacheLine) _mm_clflush(bytes + at);
}

}  // namespace

void ArrangeFreeTables(uint64_t count, Temperature temperature) {
  rcu::Barrier();
  std::vector<void*> rooms(count);
  for (void*& room : rooms) {
    room = table_memory::Allocate();
    std::memset(room, 0xff, sizeof(Table));
    if (temperature == Temperature::kCold) Evict(room, sizeof(Table));
  }
  _mm_mfence();  // the evictions are over
  // The last one that comes back is the next one that goes: they go by rising address, as those of
  // a new chunk, whichever way of unmapping gave them back.
  std::sort(rooms.begin(), rooms.end(), std::less<>());
  for (size_t i = rooms.size(); i-- > 0;) table_memory::Free(rooms[i]);
}

}  // namespace underfoot::bench
