// The software stage-2: gfn -> pfn in four levels, changed by any number of threads at once.
//
// Install (P1) is in three steps, so that nobody waits for a page-in: TryClaim reserves the entry,
// the caller looks for a bracket in flight and brings the page in with nothing held, Publish turns
// the claim into a leaf. An invalidation steals claims as it removes leaves: Publish then fails,
// and the caller starts again.
//
//   EMPTY --TryClaim--> CLAIM(tag) --Publish--> LEAF --Unmap--> EMPTY
//                         |  Abandon, Unmap                      ^
//                         +--------------------------------------+
//   LEAF(read-only) --TryClaim--> LEAF(read-only, tag) --Publish--> LEAF(writable): never broken
//   (I6)
//
// Thread safety: all operations from any thread, against each other; the table has no lock (its
// memory and its backlog have, for a moment). Lookup and MarkUsed: under an rcu::ReadScope of the
// caller. Unmap, WriteProtect, TestClearYoung, CollectDirty, Split and Settle: inside or outside of
// one. All others: outside (back-pressure may wait). Invariants: I4, I5 (tables), I6 (no identical
// rewrite), I8 (dirty only after a successful install). After: the shared walks of arm64's
// kvm_pgtable and of x86's TDP MMU in Linux.

#ifndef UNDERFOOT_MMU_STAGE2_H_
#define UNDERFOOT_MMU_STAGE2_H_

#include <array>
#include <cstdint>
#include <optional>

#include "mmu/dirty_log.h"
#include "mmu/private_table.h"
#include "mmu/pte.h"
#include "mmu/retired.h"
#include "mmu/stats.h"
#include "mmu/sync_point.h"
#include "mmu/table.h"
#include "mmu/table_pool.h"
#include "mmu/types.h"

namespace underfoot {

enum class [[nodiscard]] ClaimOutcome{
    kClaimed,  // the entry is the caller's until Publish, Abandon or a thief
    kPresent,  // a leaf grants the access already
    kBusy,     // somebody else's claim: try again when it has changed
    kTable,    // a block was wanted where a table is: claim pages instead
};

struct ClaimResult {
  ClaimOutcome outcome;
  Pte pte;  // kPresent: the leaf
};

// What the walks of one invalidation leave to do when they are over (I4, I7): one flush, then the
// tables.
struct WalkDebts {
  RetiredBatch retired;
  bool flush_due = false;
};

struct Stage2Counters {
  ShardedCounter leaves_4k;
  ShardedCounter leaves_2m;
  ShardedCounter leaves_1g;
  ShardedCounter tables;
  ShardedCounter maps;
  ShardedCounter unmaps;
  ShardedCounter walk_retries;
  ShardedCounter flushes;

  ShardedCounter& leaves(unsigned level) {
    return level == 0 ? leaves_4k : level == 1 ? leaves_2m : leaves_1g;
  }
};

class Stage2 {
 public:
  explicit Stage2(uint64_t retired_cap_bytes = RetiredTables::kDefaultCapBytes);
  ~Stage2();
  Stage2(const Stage2&) = delete;
  Stage2& operator=(const Stage2&) = delete;

  // Reserves the entry of `gfn` at `level` for the owner `tag`, or the right to relax its leaf.
  ClaimResult TryClaim(Gfn gfn, unsigned level, Access access, OwnerTag tag);

  // Turns the caller's claim into `leaf`. False: it was stolen, nothing was changed. The leaf's pfn
  // is that of the first page that the entry covers.
  [[nodiscard]] bool Publish(Gfn gfn, OwnerTag tag, Pte leaf);

  // Gives the claim back. False: it was stolen.
  bool Abandon(Gfn gfn, OwnerTag tag);

  // Turns the caller's claim of a block into a table of smaller leaves, filled in private. False:
  // it was stolen, and the table is freed.
  [[nodiscard]] bool PublishTable(Gfn gfn, OwnerTag tag, PrivateTable table);

  // Removes leaves and steals claims; what was dirty goes to the log first. Finish pays the debts.
  // Its own RCU read sections are a few tables long; a caller's around it lasts for the range.
  void Unmap(GfnRange range, WalkDebts& debts, DirtySink log = {});

  // As Unmap and Finish, table page by table page: for what nobody waits for in one piece. Yields
  // only after progress, flushed, so that the backlog of retired tables keeps to its cap.
  void TearDown(GfnRange range, DirtySink log = {});

  // Splits blocks of the range that are larger than `level`, whole, with tables that were allocated
  // before. Returns where it stopped: range.end, or where the pool was empty; fill it and go on.
  [[nodiscard]] Gfn Split(GfnRange range, unsigned level, TablePool& pool);

  // Takes the write permission from leaves and steals claims. Finish pays the debts.
  void WriteProtect(GfnRange range, WalkDebts& debts);

  // Flushes if a leaf was changed, then hands the unlinked tables over. Returns whether it flushed.
  bool Finish(WalkDebts& debts) {
    const bool flushed = Settle(debts);
    Relieve();
    return flushed;
  }
  // The two halves of Finish: Settle never waits and may be called inside a read section, Relieve
  // waits for a grace period if too much is retired.
  bool Settle(WalkDebts& debts);
  void Relieve() { retired_.Relieve(); }

  // Returns whether a leaf of the range was young; clears that too when told to.
  bool TestClearYoung(GfnRange range, bool clear);

  // Moves the dirty bits of leaves into the log.
  void CollectDirty(GfnRange range, DirtySink log);

  // Moves with every flush. Readers that hold long sections read it before they look up, poll it,
  // and leave when it has moved: a hint for promptness. What makes an invalidation safe is the wait
  // for readers that follows the flush.
  uint64_t flush_epoch() const { return flush_epoch_.load(kRelaxed); }

  struct Leaf {
    Pte pte;
    unsigned level;
  };
  // The leaf that translates `gfn`, if there is one. Inline: in a loop it costs its loads.
  std::optional<Leaf> Lookup(Gfn gfn) const {
    if (!kGuestFrames.Contains(gfn)) return std::nullopt;
    const Place place = FindEntry(gfn);
    if (!place.pte.is_leaf()) return std::nullopt;
    return Leaf{place.pte, place.level};
  }

  // As a page-table walker of hardware does: sets young, and dirty for a write, where they are not
  // set. False: the leaf has changed since it was looked up.
  [[nodiscard]] bool MarkUsed(Gfn gfn, const Leaf& leaf, Access access);

  // The entries on the way down to `gfn`, from the root's to the last one.
  struct Path {
    std::array<Pte, kLevels> entries;  // indexed by level
    unsigned last_level;
  };
  Path WalkPath(Gfn gfn) const;

  // For tests: the raw table as a second witness. Only while nobody else uses the tables.
  Table& RootUnsafe() { return root_; }

  Stage2Stats Stats() const;
  RcuStats RetiredStats() const { return retired_.Stats(); }

 private:
  enum class [[nodiscard]] StepOutcome{kDone, kRestart};
  StepOutcome ClaimFromRoot(Gfn gfn, unsigned level, Access access, OwnerTag tag,
                            ClaimResult& result, RetiredBatch& batch);
  StepOutcome ClaimHole(Table& table, Entry& entry, Gfn gfn, unsigned level, OwnerTag tag,
                        ClaimResult& result, RetiredBatch& batch);
  Table* BuildChain(Gfn gfn, unsigned top_level, unsigned level, OwnerTag tag);
  // The entry that decides about a gfn: the first on the way down that is no table.
  struct Place {
    Table& table;
    Entry& entry;
    Pte pte;  // as read
    unsigned level;
  };
  Place FindEntry(Gfn gfn) const {
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
  void Prune(Table& parent, Gfn gfn, RetiredBatch& batch);
  void PayFor(RetiredBatch& batch);
  Gfn UnmapSome(GfnRange range, WalkDebts& debts, DirtySink log);

  Stage2Counters counters_;
  RetiredTables retired_;
  std::atomic<uint64_t> flush_epoch_{0};
  mutable Table root_{kLevels - 1, 1};  // an entry that never empties: the root never dies
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_H_
