// Memslots: which interval of guest frames lies where in host virtual memory. The memslots form
// immutable sets that are published by RCU.
//
// A deletion makes two publications (P5). In the first set the slot is *dying*: look-ups do not
// find it, but an invalidation still walks it, because its leaves still exist. When its leaves,
// caches and readers are gone, the second set leaves the slot out. A move does the same, and a
// further set has the slot at its new place. Each publication increments the generation, and each
// change of a slot gives it a new uid.
//
// A set consists of two sorted indexes of pointers. The slots themselves are shared by all sets
// that contain them. An update copies both indexes once, with one slot more or less. This is linear
// in the number of slots; tests/bench/memslot.cc measures it.
//
// Thread safety: a MemslotSet is immutable. Any thread reads a MemslotTable inside an
// rcu::ReadScope. The caller serializes the updates (Mmu::update_mutex_).
// Errors: absl::Status names the slot and what is wrong with it; std::bad_alloc without memory. In
// both cases nothing has changed.
// Units and limits: Gfn counts pages of 4 KiB. At most kMaxMemslots slots. Slots may share host
// memory (aliases) and never guest frames.
// Invariants: I1, I3, I9 (an update waits for no bracket).
// After: struct kvm_memslots in Linux, which also has two indexes. The difference: an update of KVM
// (kvm_swap_active_memslots) waits until no invalidation is active (mn_active_invalidate_count).
// Ours waits for walks and readers, and for no bracket.

#ifndef UNDERFOOT_MMU_MEMSLOT_H_
#define UNDERFOOT_MMU_MEMSLOT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/rcu.h"
#include "mmu/base/types.h"
#include "mmu/stage2/dirty_log.h"

namespace underfoot {

inline constexpr uint32_t kMaxMemslots = 32764;  // the same as KVM_USER_MEM_SLOTS on x86

struct MemslotFlags {
  bool read_only = false;  // KVM_MEM_READONLY
  bool log_dirty = false;  // KVM_MEM_LOG_DIRTY_PAGES

  friend bool operator==(const MemslotFlags&, const MemslotFlags&) = default;
};

struct Memslot {
  uint32_t id = 0;
  GfnRange gfns;
  Hva hva;  // the host address of gfns.begin
  MemslotFlags flags = {};
  bool dying = false;
  // Never used twice. A slot that is deleted and created again, moved or changed has another uid.
  uint64_t uid = 0;
  // The generation of the set in which the slot, as it is, was first published.
  uint64_t generation = 0;
  // Owned by the MemslotTable. It may be marked as long as the slot may be used.
  DirtyLog* log = nullptr;

  bool Grants(Access access) const { return access == Access::kRead || !flags.read_only; }
  HvaRange hvas() const { return HvasOf(gfns); }
  Hva HvaOf(Gfn gfn) const { return hva + (gfn - gfns.begin) * kPageSize; }
  HvaRange HvasOf(GfnRange range) const { return {HvaOf(range.begin), HvaOf(range.end)}; }
  // The gfns of the pages in `range`. `range` must lie inside hvas().
  GfnRange GfnsOf(HvaRange range) const {
    return {gfns.begin + ((range.begin - hva) >> kPageShift),
            gfns.begin + ((range.end - hva) >> kPageShift)};
  }
  DirtySink dirty_sink() const { return {log, gfns.begin}; }
};

class MemslotSet : public rcu::DeferHead {
 public:
  MemslotSet() = default;
  // The set that follows `before`: without the slot `out` and with the slot `in`. Either may be
  // nullptr. A slot lives as long as a set that contains it.
  MemslotSet(const MemslotSet& before, const Memslot* out, const Memslot* in);

  uint64_t generation() const { return generation_; }
  size_t size() const { return by_gfn_.size(); }

  // O(log n). Does not find a dying slot.
  const Memslot* Find(Gfn gfn) const;
  const Memslot* Find(Hva hva) const;

  // Returns a slot, dying or not, that overlaps `range` and whose id is not `except`. O(log n).
  const Memslot* FindOverlap(GfnRange range, uint32_t except) const;

  // Calls `visit(slot)` for each slot in the order of gfns, dying ones included.
  template <class Visitor>
  void ForEach(const Visitor& visit) const {
    for (const GfnIndex& entry : by_gfn_) visit(*entry.slot);
  }

  // Calls `visit(slot, overlap)` for each slot whose host memory overlaps `range`, dying ones
  // included.
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
    Hva max_end;  // the largest end up to this entry, since aliases may nest
    const Memslot* slot;
  };

  size_t FirstThatMayReach(Hva hva) const;

  std::vector<GfnIndex> by_gfn_;
  std::vector<HvaIndex> by_hva_;
  uint64_t generation_ = 0;
};

// The result of an update of the flags. If both slots have the same uid, the flags were already set
// and nothing was published.
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

  // The current set. It stays valid until the caller's RCU read section ends.
  const MemslotSet& Current() const { return *current_.Load(); }
  const MemslotSet& CurrentAfterAnnouncement() const { return *current_.LoadAfterAnnouncement(); }

  // A copy of the slot of `address`, a Gfn or an Hva, for use outside of an RCU read section. The
  // slot may change at once; a thread that installs a translation compares it again (IsCurrent).
  template <class Address>
  std::optional<Memslot> Find(Address address) const {
    rcu::ReadScope rcu;
    const Memslot* slot = Current().Find(address);
    return slot == nullptr ? std::nullopt : std::optional(*slot);
  }

  // Whether look-ups still find `slot` as it was copied. The caller has announced its claim, or has
  // listed its cache: an update that publishes later finds that when it removes what the slot has.
  bool IsCurrent(const Memslot& slot) const {
    rcu::ReadScope rcu;
    const Memslot* now = CurrentAfterAnnouncement().Find(slot.gfns.begin);
    return now != nullptr && now->uid == slot.uid;
  }

  // The updates. Each makes at most one publication, except FinishMove. An error names the slot and
  // what is wrong with it. After an error, and after std::bad_alloc, nothing has changed.
  absl::Status Add(const Memslot& slot);  // assigns the uid and makes the log
  // Publishes the set in which the slot is dying (P5.1). It also allocates everything that Erase,
  // or FinishMove to `moves_to`, will need. If one of these is the next update, it cannot fail.
  absl::StatusOr<Memslot> MarkDying(uint32_t id, std::optional<Gfn> moves_to = std::nullopt);
  // Publishes the set without the dying slot and frees its log (P5.5). The gfns may be used again
  // only after WaitForOldWalks.
  void Erase(uint32_t id);
  // Publishes the dying slot at its new place `first`, for which CheckMove has found room. The slot
  // keeps its log. This makes two publications, with WaitForOldWalks between them.
  void FinishMove(uint32_t id, Gfn first);

  // Waits until no invalidation walks an older set. Such a walk would remove leaves of another slot
  // (or of the same slot at another place) that uses the same gfns now but lies at another hva.
  // Neither the readers of that hva would then be waited for, nor would its log be marked.
  static void WaitForOldWalks();

  // If `after` no longer has the log of `before`, the caller owns that log and frees it when no
  // thread can mark it any more.
  absl::StatusOr<MemslotChange> SetFlags(uint32_t id, MemslotFlags flags);

  // For the updating thread only.
  absl::StatusOr<Memslot> Get(uint32_t id) const;
  absl::Status CheckMove(uint32_t id, Gfn first) const;

 private:
  struct Node : rcu::DeferHead {
    explicit Node(const Memslot& of) : slot(of) {}
    Memslot slot;
  };

  // The sets and the node for the later steps of a deletion or a move. MarkDying makes them before
  // it publishes the dying slot.
  struct Rest {
    // Follows the set in which the slot is dying.
    std::unique_ptr<MemslotSet> without;
    std::unique_ptr<Node> moved;
    // Follows `without`, and contains `moved`.
    std::unique_ptr<MemslotSet> with_moved;
  };

  absl::Status CheckPlace(const Memslot& slot) const;
  static std::unique_ptr<MemslotSet> MakeSet(const MemslotSet& before, const Node* out, Node* in);
  std::unique_ptr<MemslotSet> SetWithout(const Node& out);
  std::unique_ptr<Node> MakeMoved(const Memslot& slot, Gfn first);
  void Publish(std::unique_ptr<MemslotSet> next, Node* replaced) noexcept;

  const uint32_t max_slots_;
  rcu::Pointer<MemslotSet> current_;
  // This member and the two below belong to the updating thread. A std::unordered_map, because an
  // insertion that finds no memory changes nothing; the maps of Abseil do not promise that.
  std::unordered_map<uint32_t, Node*> by_id_;
  uint64_t next_uid_ = 1;
  Rest rest_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MEMSLOT_H_
