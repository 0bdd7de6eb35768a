// Memslots as one sorted array of values and a sorted index by hva, copied, searched and sorted
// anew by each update: what mmu/memslot did first.
//
// Thread safety: one thread updates, readers under rcu::ReadScope.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_SORTED_MEMSLOTS_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_SORTED_MEMSLOTS_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "mmu/base/rcu.h"
#include "mmu/memslot.h"

namespace underfoot::bench {

class SortedMemslots {
 public:
  explicit SortedMemslots(std::vector<Memslot> slots) : current_(new Set(std::move(slots))) {}
  ~SortedMemslots() { delete current_.Load(); }
  SortedMemslots(const SortedMemslots&) = delete;
  SortedMemslots& operator=(const SortedMemslots&) = delete;

  bool Add(const Memslot& slot) {
    std::vector<Memslot> next = current_.Load()->by_gfn;
    for (const Memslot& other : next) {
      if (other.id == slot.id || other.gfns.Overlaps(slot.gfns)) return false;
    }
    next.push_back(slot);
    Publish(std::move(next));
    return true;
  }
  void MarkDying(uint32_t id) {
    std::vector<Memslot> next = current_.Load()->by_gfn;
    for (Memslot& slot : next) slot.dying = slot.dying || slot.id == id;
    Publish(std::move(next));
  }
  void Erase(uint32_t id) {
    std::vector<Memslot> next = current_.Load()->by_gfn;
    std::erase_if(next, [id](const Memslot& slot) { return slot.id == id; });
    Publish(std::move(next));
  }

 private:
  struct Set : rcu::DeferHead {
    explicit Set(std::vector<Memslot> slots) : by_gfn(std::move(slots)) {
      std::sort(by_gfn.begin(), by_gfn.end(),
                [](const Memslot& a, const Memslot& b) { return a.gfns.begin < b.gfns.begin; });
      for (uint32_t i = 0; i < by_gfn.size(); ++i) by_hva.push_back({by_gfn[i].hva, i});
      std::sort(by_hva.begin(), by_hva.end());
    }
    std::vector<Memslot> by_gfn;
    std::vector<std::pair<Hva, uint32_t>> by_hva;
  };

  void Publish(std::vector<Memslot> slots) {
    rcu::DeferDelete(current_.Publish(new Set(std::move(slots))));
  }

  rcu::Pointer<Set> current_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_SORTED_MEMSLOTS_H_
