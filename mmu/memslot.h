// Memslots: which interval of guest frames lies where in host virtual memory, as immutable sets
// that are published by RCU.
//
// A delete takes two publications (P5): in the first set the slot is *dying*: look-ups do not find
// it, but an invalidation still walks it, for its leaves are still there. Only when they are gone
// does the second set leave it out. Every publication moves the generation.
//
// Thread safety: MemslotSet is immutable. MemslotTable: readers under rcu::ReadScope from any
// thread; updates are serialized by the caller (Mmu::update_mutex_). Limits: kMaxMemslots slots.
// Slots may share host memory (aliases), never guest frames.

#ifndef UNDERFOOT_MMU_MEMSLOT_H_
#define UNDERFOOT_MMU_MEMSLOT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/rcu.h"
#include "mmu/types.h"

namespace underfoot {

inline constexpr uint32_t kMaxMemslots = 32764;  // as KVM_USER_MEM_SLOTS on x86
inline constexpr unsigned kGfnBits = 36;         // 48-bit guest physical addresses

struct Memslot {
  uint32_t id = 0;
  GfnRange gfns;
  Hva hva;  // of gfns.begin
  bool read_only = false;
  bool dying = false;
  uint64_t uid = 0;  // never used twice: a slot deleted and added again is another slot

  HvaRange hvas() const { return {hva, hva + gfns.size() * kPageSize}; }
  Hva HvaOf(Gfn gfn) const { return hva + (gfn - gfns.begin) * kPageSize; }
  // Of the pages in `range`, which must lie inside hvas().
  GfnRange GfnsOf(HvaRange range) const {
    return {gfns.begin + ((range.begin - hva) >> kPageShift),
            gfns.begin + ((range.end - hva) >> kPageShift)};
  }
};

class MemslotSet : public rcu::DeferHead {
 public:
  MemslotSet(std::vector<Memslot> slots, uint64_t generation);

  uint64_t generation() const { return generation_; }
  const std::vector<Memslot>& slots() const { return by_gfn_; }  // dying ones too, by gfn

  // O(log n). A dying slot is not found.
  const Memslot* Find(Gfn gfn) const;
  const Memslot* Find(Hva hva) const;

  // Every slot whose host memory overlaps, dying ones included: `visit(slot, overlap)`.
  template <class Visitor>
  void ForEachOverlap(HvaRange range, const Visitor& visit) const {
    for (size_t i = FirstThatMayReach(range.begin); i < by_hva_.size(); ++i) {
      const Memslot& slot = by_gfn_[by_hva_[i].index];
      if (slot.hva >= range.end) return;
      const HvaRange overlap = slot.hvas().Intersect(range);
      if (!overlap.empty()) visit(slot, overlap);
    }
  }

 private:
  friend class MemslotTable;

  struct HvaIndex {
    Hva begin;
    Hva max_end;  // of this and all entries before it: aliases may nest
    uint32_t index;
  };

  size_t FirstThatMayReach(Hva hva) const;

  std::vector<Memslot> by_gfn_;
  std::vector<HvaIndex> by_hva_;
  uint64_t generation_;
};

class MemslotTable {
 public:
  MemslotTable();
  ~MemslotTable();
  MemslotTable(const MemslotTable&) = delete;
  MemslotTable& operator=(const MemslotTable&) = delete;

  // Valid until the caller's read section ends.
  const MemslotSet& Current() const { return *current_.Load(); }
  const MemslotSet& CurrentAfterAnnouncement() const { return *current_.LoadAfterAnnouncement(); }

  // One publication each. Errors name the slot and what is wrong with it.
  absl::Status Add(const Memslot& slot);
  absl::StatusOr<Memslot> MarkDying(uint32_t id);
  void Erase(uint32_t id);

 private:
  void Publish(std::vector<Memslot> slots);

  rcu::Pointer<MemslotSet> current_;
  uint64_t next_uid_ = 1;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MEMSLOT_H_
