// The software stage-2: gfn -> pfn in four levels, changed by any number of threads at once.
//
// Install (P1) has three steps, so that no thread waits for a page-in: TryClaim reserves the entry,
// the caller looks for a bracket in flight and brings the page in with nothing held, Publish turns
// the claim into a leaf. Brackets and memslot updates call Unmap and WriteProtect. Both steal
// claims: they empty each entry that they find claimed. Publish then fails, and the owner of the
// claim starts again.
//
//   EMPTY --TryClaim--> CLAIM(tag) --Publish--> LEAF --Unmap--> EMPTY
//                         |  Abandon, Unmap, WriteProtect        ^
//                         +--------------------------------------+
//   LEAF(read-only) --TryClaim--> LEAF(read-only, tag) --Publish--> LEAF(writable)
//         ^                         |  Abandon, WriteProtect, Split; Unmap empties the entry
//         +-------------------------+
// The entry of a leaf that is being relaxed is never empty in between (I6).
//
// Frames from 2^36 on are in no table: an operation on a range leaves them out.
//
// Thread safety: any thread calls any operation, several threads at a time. The table has no lock;
// the memory of table pages and the backlog of retired tables have one each. Lookup, Use,
// UseRange and Neighbours are called under an rcu::ReadScope of the caller; Unmap, WriteProtect, TestClearYoung,
// CollectDirty, Split and FlushAndRetire inside or outside of one; all others outside of one,
// because back-pressure may wait.
// Invariants: I4, I5 (tables), I6 (no identical rewrite), I8 (dirty only after a successful
// install).
// After: the shared walks of arm64's kvm_pgtable and of x86's TDP MMU in Linux.

#ifndef UNDERFOOT_MMU_STAGE2_STAGE2_H_
#define UNDERFOOT_MMU_STAGE2_STAGE2_H_

#include <array>
#include <cstdint>
#include <optional>

#include "mmu/base/check.h"
#include "mmu/base/stats.h"
#include "mmu/base/sync_point.h"
#include "mmu/base/types.h"
#include "mmu/stage2/dirty_log.h"
#include "mmu/stage2/private_table.h"
#include "mmu/stage2/pte.h"
#include "mmu/stage2/retired.h"
#include "mmu/stage2/table.h"
#include "mmu/stage2/table_pool.h"

namespace underfoot {

enum class [[nodiscard]] ClaimOutcome{
    kClaimed,  // the entry is the caller's until Publish or Abandon, or until it is stolen
    kPresent,  // a leaf grants the access already
    kBusy,     // another installer has claimed it: retry when the entry has changed
    kTable,    // there is a table where the block would be: claim pages instead
};

struct ClaimResult {
  ClaimOutcome outcome;
  Pte pte;  // kPresent: the leaf
};

// What remains to be done after the walks of one invalidation (I4, I7): one flush, and then the
// unlinked tables are retired.
struct MmuGather {
  RetiredBatch retired;
  bool flush_due = false;
  // The walk has stopped at this block. Only a part of it goes, and there is no memory to split it.
  // The walk has done everything before the block.
  std::optional<GfnRange> unsplit = std::nullopt;
};

struct Stage2Counters {
  // Leaves and claims. A claim that becomes a leaf stays counted. So the count of a table that is freed with
  // its entries in it is the number to take off here.
  ShardedCounter entries_4k;
  ShardedCounter entries_2m;
  ShardedCounter entries_1g;
  ShardedCounter tables;
  ShardedCounter maps;
  ShardedCounter unmaps;
  ShardedCounter walk_retries;
  ShardedCounter flushes;

  ShardedCounter& entries(unsigned level) {
    return level == 0 ? entries_4k : level == 1 ? entries_2m : entries_1g;
  }
};

class Stage2 {
 public:
  explicit Stage2(uint64_t retired_cap_bytes = RetiredTables::kDefaultCapBytes);
  ~Stage2();
  Stage2(const Stage2&) = delete;
  Stage2& operator=(const Stage2&) = delete;

  // Reserves the entry of `gfn` at `level` for the owner `tag`. If a leaf is there that does not
  // grant the access, reserves the right to relax it.
  ClaimResult TryClaim(Gfn gfn, unsigned level, Access access, OwnerTag tag);

  // Turns the caller's claim into `leaf`. Returns false if it was stolen; nothing has changed then.
  // The leaf's pfn is that of the first page that the entry covers.
  [[nodiscard]] bool Publish(Gfn gfn, OwnerTag tag, Pte leaf);

  // Gives the claim back. Returns false if it was stolen.
  bool Abandon(Gfn gfn, OwnerTag tag);

  // Turns the caller's claim of a block into a table of smaller leaves, filled in private. Returns
  // false if the claim was stolen; the table is then freed.
  [[nodiscard]] bool PublishTable(Gfn gfn, OwnerTag tag, PrivateTable table);

  // Removes leaves and steals claims, and marks dirty pages in the log. The caller then calls
  // Finish.
  // Each of its own RCU read sections covers a few tables; if the caller is in a read section, that
  // one lasts for the whole range. Stops at gather.unsplit.
  void Unmap(GfnRange range, MmuGather& gather, DirtySink log = {});

  // As Unmap and Finish, in pieces, for a range that need not be unmapped in one step. When the
  // tables that it has unlinked exceed the cap of the backlog, it flushes, waits for a grace period
  // and frees them. So the backlog keeps to its cap, however large the range is. Throws
  // std::bad_alloc if only a part of a block goes and there is no memory to split it.
  void TearDown(GfnRange range, DirtySink log = {});

  // Splits each block of the range that is larger than `level`, as a whole, with tables that were
  // allocated before. Returns range.end, or the gfn at which the pool was empty: the caller fills
  // the pool and calls again from there.
  [[nodiscard]] Gfn Split(GfnRange range, unsigned level, TablePool& pool);

  // Takes the write permission from leaves and steals claims. The caller then calls Finish. Stops
  // at gather.unsplit.
  void WriteProtect(GfnRange range, MmuGather& gather);

  // Flushes if a leaf was changed, then hands the unlinked tables over. Waits for the backlog only if
  // there was such a table. Returns whether it flushed.
  bool Finish(MmuGather& gather) {
    const bool retires = !gather.retired.empty();
    const bool flushed = FlushAndRetire(gather);
    if (retires) ThrottleRetired();
    return flushed;
  }
  // The two halves of Finish: FlushAndRetire never waits and may be called inside a read section.
  // ThrottleRetired waits for a grace period if too much is retired; only a thread that has retired
  // tables calls it.
  bool FlushAndRetire(MmuGather& gather);
  void ThrottleRetired() { retired_.ThrottleRetired(); }

  // Returns whether a leaf of the range was young. If `clear` is true, makes the leaves old.
  bool TestClearYoung(GfnRange range, bool clear);

  // Moves the dirty bits of leaves into the log.
  void CollectDirty(GfnRange range, DirtySink log);

  struct Leaf {
    Pte pte;
    unsigned level;

    // The frame of `gfn`, which the leaf translates: a block has one frame for each of its pages.
    Pfn PfnOf(Gfn gfn) const { return pte.pfn() + (gfn - EntryRange(gfn, level).begin); }
  };
  // The leaf that translates `gfn`, if there is one. Inline: in a loop it costs its loads.
  std::optional<Leaf> Lookup(Gfn gfn) const {
    if (!kGuestFrames.Contains(gfn)) return std::nullopt;
    const Place place = FindEntry(gfn);
    if (!place.pte.is_leaf()) return std::nullopt;
    return Leaf{place.pte, place.level};
  }

  // An access as on hardware: finds the leaf that grants it, and makes the leaf young, and dirty
  // for a write. Returns the leaf as it was found, or nothing if no leaf grants the access.
  std::optional<Leaf> Use(Gfn gfn, Access access) {
    const std::optional<Place> place = UseFromRoot(gfn, access);
    if (!place.has_value()) return std::nullopt;
    return Leaf{place->pte, place->level};
  }

  // Use of frames that mostly lie near each other: it keeps the table in which it found the last leaf,
  // and walks only to a frame elsewhere and to a leaf that lacks a mark. All of it stands in one
  // rcu::ReadScope, after the announcement of each of its pages: an entry may be read after its table
  // has left its parent (P2, "Readers").
  class Neighbours {
   public:
    explicit Neighbours(Stage2& stage2) : stage2_(stage2) {}

    // Whether a leaf grants the access. It is marked, as Use marks it.
    [[gnu::always_inline]] bool Use(Gfn gfn, Access access) {
      const uint64_t entry = gfn.value >> shift_;
      if (entry >> kIndexBits == table_) [[likely]] {
        UNDERFOOT_SYNC_POINT("neighbour-entry");
        const Pte pte = entries_[entry % kEntries].Load();
        if (pte.GrantsUnchanged(access)) return true;
      }
      return UseElsewhere(gfn, access);
    }

   private:
    bool UseElsewhere(Gfn gfn, Access access);

    Stage2& stage2_;
    Entry* entries_ = nullptr;     // of that table
    uint64_t table_ = UINT64_MAX;  // which one it is of those of its level; of no frame
    unsigned shift_ = 0;  // from a frame's number to that of its entry in a table of that level
  };

  // Use of each frame in turn, by Neighbours. Returns the number of frames before the first one to
  // which no leaf grants the access.
  uint64_t UseRange(GfnRange gfns, Access access);

  // The entries on the way down to `gfn`, from the root's to the last one. Of a frame outside of
  // stage-2: an empty one.
  struct Path {
    std::array<Pte, kLevels> entries;  // indexed by level
    unsigned last_level;
  };
  Path WalkPath(Gfn gfn) const;

  // For tests that compare the raw table with what Lookup finds. Only while no other thread uses
  // the tables.
  Table& RootUnsafe() { return root_; }

  Stage2Stats Stats() const;
  RcuStats RetiredStats() const { return retired_.Stats(); }

 private:
  enum class [[nodiscard]] StepOutcome{kDone, kRestart};
  StepOutcome ClaimFromRoot(Gfn gfn, unsigned level, Access access, OwnerTag tag,
                            ClaimResult& result, RetiredBatch& batch);
  StepOutcome ClaimHole(Table& table, Entry& entry, Gfn gfn, unsigned level, OwnerTag tag,
                        ClaimResult& result, RetiredBatch& batch);
  PrivateTable BuildChain(Gfn gfn, unsigned top_level, unsigned level, OwnerTag tag);
  // The entry that decides about a gfn: the first on the way down that is no table.
  struct Place {
    Table& table;
    Entry& entry;
    Pte pte;  // as read
    unsigned level;
  };
  Place FindEntry(Gfn gfn) const {
    UNDERFOOT_CHECK(kGuestFrames.Contains(gfn), "a frame outside of stage-2", gfn.value, 0);
    Table* table = &root_;
    // The level is counted here and not read from the table: that would be one more cache line a
    // level.
#pragma GCC unroll 4
    for (unsigned level = kLevels - 1; level > 0; --level) {
      Entry& entry = table->entries[IndexOf(gfn, level)];
      const Pte pte = entry.Load();
      if (!pte.is_table()) return {*table, entry, pte, level};
      UNDERFOOT_SYNC_POINT("walk-down");
      table = pte.table();
    }
    Entry& entry = table->entries[IndexOf(gfn, 0)];
    return {*table, entry, entry.Load(), 0};
  }
  // The walk of every access: down to the leaf that grants it, which is marked. The place as it was
  // found, or nothing if no leaf grants the access.
  std::optional<Place> UseFromRoot(Gfn gfn, Access access) {
    if (!kGuestFrames.Contains(gfn)) return std::nullopt;
    for (;;) {
      const Place place = FindEntry(gfn);
      if (place.pte.GrantsUnchanged(access)) return place;
      if (!place.pte.Grants(access)) return std::nullopt;
      UNDERFOOT_SYNC_POINT("use-marks");
      if (place.entry.Replace(place.pte, place.pte.Used(access))) return place;
    }
  }
  bool IsInHole(GfnRange range) const;
  void Prune(Table& parent, Gfn gfn, RetiredBatch& batch);
  void RetireAndThrottle(RetiredBatch& batch);
  template <class Visitor>
  void WalkTables(GfnRange range, Visitor& visitor);
  Gfn UnmapSome(GfnRange range, MmuGather& gather, DirtySink log);
  bool Flush(MmuGather& gather);
  void FlushAndFree(MmuGather& gather);

  Stage2Counters counters_;
  RetiredTables retired_;
  mutable Table root_{kLevels - 1, 1};  // an entry that never empties: the root never dies
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_STAGE2_H_
