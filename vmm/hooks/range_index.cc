#include "vmm/hooks/range_index.h"

namespace underfoot::hooks {

void RangeIndex::Change(std::span<const Entry> added, uint32_t removed) {
  const uint32_t active = active_.load(kRelaxed);
  const Side& from = sides_[active];
  Side& to = sides_[1 - active];
  // These readers either entered the side before it became inactive, or will find that it is
  // inactive and leave it again.
  while (to.readers.load(kStoreLoad) != 0) sched_yield();
  uint32_t count = 0;
  HvaRange memory{{UINT64_MAX}, {0}};
  const auto append = [&](const Entry& entry) {
    if (entry.interval.begin.space == 0) {
      memory.begin = std::min(memory.begin, Hva{entry.interval.begin.at});
      memory.end = std::max(memory.end, Hva{entry.interval.end.at});
    }
    to.entries[count++] = entry;
  };
  for (uint32_t i = 0; i < from.count; ++i) {
    const Entry& entry = from.entries[i];
    for (; !added.empty() && added.front().interval.begin <= entry.interval.begin;
         added = added.subspan(1)) {
      append(added.front());
    }
    if (entry.slot != removed) append(entry);
  }
  for (const Entry& entry : added) append(entry);
  to.count = count;
  to.memory = memory;
  to.leaves = std::bit_ceil(std::max(count, 1U));
  for (uint32_t i = 0; i < to.leaves; ++i) {
    to.reach[to.leaves + i] = i < count ? to.entries[i].interval.end : Place{};
  }
  for (uint32_t node = to.leaves - 1; node > 0; --node) {
    to.reach[node] = std::max(to.reach[2 * node], to.reach[2 * node + 1]);
  }
  active_.store(1 - active, kStoreLoad);
}

}  // namespace underfoot::hooks
