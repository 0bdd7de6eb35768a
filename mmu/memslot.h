// Memslots: which interval of guest frames lies where in host virtual memory, as immutable sets
// that are published by RCU.
//
// A delete takes two publications (P5): in the first set the slot is *dying*: look-ups do not find
// it, but an invalidation still walks it, for its leaves are still there. Only when they are gone
// does the second set leave it out. A move is the same, and its second set has the slot elsewhere.
// Every publication moves the generation, and every change of a slot its uid.
//
// A set is two sorted indexes of pointers; the slots themselves are shared by all sets that have
// them. An update copies the indexes once, with one slot more or less: linear, and measured in
// tests/bench/memslot.cc.
//
// Thread safety: MemslotSet is immutable. MemslotTable: readers under rcu::ReadScope from any
// thread; updates are serialized by the caller (Mmu::update_mutex_). Limits: kMaxMemslots slots.
// Slots may share host memory (aliases), never guest frames.

#ifndef UNDERFOOT_MMU_MEMSLOT_H_
#define UNDERFOOT_MMU_MEMSLOT_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/dirty_log.h"
#include "mmu/rcu.h"
#include "mmu/types.h"

namespace underfoot {

inline constexpr uint32_t kMaxMemslots = 32764;  // as KVM_USER_MEM_SLOTS on x86

struct MemslotFlags {
  bool read_only = false;  // KVM_MEM_READONLY
  bool log_dirty = false;  // KVM_MEM_LOG_DIRTY_PAGES

  friend bool operator==(const MemslotFlags&, const MemslotFlags&) = default;
};

struct Memslot {
  uint32_t id = 0;
  GfnRange gfns;
  Hva hva;  // of gfns.begin
  MemslotFlags flags = {};
  bool dying = false;
  uint64_t uid = 0;         // never used twice: a slot deleted, moved or changed is another slot
  DirtyLog* log = nullptr;  // the table's; may be marked as long as the slot may be used

  HvaRange hvas() const { return {hva, hva + gfns.size() * kPageSize}; }
  Hva HvaOf(Gfn gfn) const { return hva + (gfn - gfns.begin) * kPageSize; }
  // Of the pages in `range`, which must lie inside hvas().
  GfnRange GfnsOf(HvaRange range) const {
    return {gfns.begin + ((range.begin - hva) >> kPageShift),
            gfns.begin + ((range.end - hva) >> kPageShift)};
  }
  DirtySink dirty_sink() const { return {log, gfns.begin}; }
};

class MemslotSet : public rcu::DeferHead {
 public:
  MemslotSet() = default;
  // The set after `before`: without `out` and with `in`, either of which may be nullptr. Slots
  // live as long as a set that has them.
  MemslotSet(const MemslotSet& before, const Memslot* out, const Memslot* in);

  uint64_t generation() const { return generation_; }
  size_t size() const { return by_gfn_.size(); }

  // O(log n). A dying slot is not found.
  const Memslot* Find(Gfn gfn) const;
  const Memslot* Find(Hva hva) const;

  // A slot that overlaps, dying or not, other than the one called `except`. O(log n).
  const Memslot* FindOverlap(GfnRange range, uint32_t except) const;

  // Dying ones too, by gfn.
  template <class Visitor>
  void ForEach(const Visitor& visit) const {
    for (const GfnIndex& entry : by_gfn_) visit(*entry.slot);
  }

  // Every slot whose host memory overlaps, dying ones included: `visit(slot, overlap)`.
  template <class Visitor>
  void ForEachOverlap(HvaRange range, const Visitor& visit) const {
    for (size_t i = FirstThatMayReach(range.begin); i < by_hva_.size(); ++i) {
      const HvaIndex& entry = by_hva_[i];
      if (entry.begin >= range.end) return;
      const HvaRange overlap = HvaRange{entry.begin, entry.end}.Intersect(range);
      if (!overlap.empty()) visit(*entry.slot, overlap);
    }
  }

 private:
  struct GfnIndex {
    Gfn begin;
    const Memslot* slot;
  };
  struct HvaIndex {
    Hva begin;
    Hva end;
    Hva max_end;  // of this and all entries before it: aliases may nest
    const Memslot* slot;
  };

  size_t FirstThatMayReach(Hva hva) const;

  std::vector<GfnIndex> by_gfn_;
  std::vector<HvaIndex> by_hva_;
  uint64_t generation_ = 0;
};

// What an update of the flags did. The same uid: nothing.
struct MemslotChange {
  Memslot before;
  Memslot after;
};

class MemslotTable {
 public:
  explicit MemslotTable(uint32_t max_slots = kMaxMemslots);
  ~MemslotTable();
  MemslotTable(const MemslotTable&) = delete;
  MemslotTable& operator=(const MemslotTable&) = delete;

  // Valid until the caller's read section ends.
  const MemslotSet& Current() const { return *current_.Load(); }
  const MemslotSet& CurrentAfterAnnouncement() const { return *current_.LoadAfterAnnouncement(); }

  // The updates: at most one publication each. Errors name the slot and what is wrong with it, and
  // nothing has changed then.
  absl::Status Add(const Memslot& slot);  // its uid and log are made here
  absl::StatusOr<Memslot> MarkDying(uint32_t id);
  // The dying slot goes, with its log. Its gfns are free after WaitForOldWalks.
  void Erase(uint32_t id);
  // The dying slot lives again, from `first` on, where CheckMove has found room; with its log.
  // Three publications at most, with WaitForOldWalks between them.
  void Revive(uint32_t id, Gfn first);

  // Until no invalidation walks a set from before: it would take leaves that another slot, or the
  // same one elsewhere, has meanwhile at the gfns that it knows, with another hva than its own.
  // Then neither the readers of that hva nor its log would be told.
  static void WaitForOldWalks();

  // A log that `after` does not have any more is the caller's, to be freed when nobody marks it.
  absl::StatusOr<MemslotChange> SetFlags(uint32_t id, MemslotFlags flags);

  // For the updating thread.
  absl::StatusOr<Memslot> Get(uint32_t id) const;
  absl::Status CheckMove(uint32_t id, Gfn first) const;

 private:
  struct Node : rcu::DeferHead {
    explicit Node(const Memslot& of) : slot(of) {}
    Memslot slot;
  };

  absl::Status CheckPlace(const Memslot& slot) const;
  void Exchange(Node* out, Node* in);

  const uint32_t max_slots_;
  rcu::Pointer<MemslotSet> current_;
  absl::flat_hash_map<uint32_t, Node*> by_id_;  // the updating thread's
  uint64_t next_uid_ = 1;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MEMSLOT_H_
