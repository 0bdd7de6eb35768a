// Removes every leaf of a range, steals every claim, unlinks every table that becomes empty. Stops
// after a few tables, so that a teardown can leave its read section and hand the tables over.
//
// The references of emptied entries are dropped when the walk leaves their table, all in one step.
// Until then the table counts too many entries, which keeps it alive, and never too few.
//
// A table of pages that the range covers whole is unmapped in one of two ways:
// - If no log needs its dirty bits and it has a leaf, it is *detached*: one compare-exchange
//   empties the entry of the parent, and the table is retired with its entries in it. RetiredTables
//   counts those entries after the grace period.
// - Otherwise each of its entries is emptied.

#ifndef UNDERFOOT_MMU_STAGE2_UNMAP_VISITOR_H_
#define UNDERFOOT_MMU_STAGE2_UNMAP_VISITOR_H_

#include <array>
#include <new>
#include <optional>
#include <utility>

#include "mmu/base/sync_point.h"
#include "mmu/stage2/dirty_log.h"
#include "mmu/stage2/split.h"
#include "mmu/stage2/unlink.h"
#include "mmu/stage2/walker.h"

namespace underfoot {

class UnmapVisitor {
 public:
  // `end` of the range that is walked.
  UnmapVisitor(Stage2Counters& counters, RetiredBatch& batch, DirtySink log, Gfn end)
      : counters_(counters), batch_(batch), log_(log), reached_(end) {}
  ~UnmapVisitor() {
    for (unsigned level = 0; level <= kMaxLeafLevel; ++level) {
      if (removed_[level] != 0) counters_.entries(level).Sub(removed_[level]);
    }
    if (unmaps_ != 0) counters_.unmaps.Add(unmaps_);
    if (detached_ != 0) counters_.tables.Sub(detached_);
  }
  UnmapVisitor(const UnmapVisitor&) = delete;
  UnmapVisitor& operator=(const UnmapVisitor&) = delete;

  // Whether a leaf went, and so a flush is due (I7). No reader has used a claim.
  bool unmapped() const { return unmapped_ || detached_ != 0; }
  Gfn reached() const { return reached_; }
  // The block at which the walk stopped because there was no memory to split it.
  std::optional<GfnRange> unsplit() const { return unsplit_; }

  VisitResult Leaf(const Visit& visit) {
    try {
      if (RemoveLogged(visit.pte, visit.range, [&] { return Remove(visit); })) {
        return VisitResult::kContinue;
      }
    } catch (const std::bad_alloc&) {
      unsplit_ = visit.covers;
      reached_ = visit.range.begin;
      return VisitResult::kStop;
    }
    counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

  VisitResult CoveredTable(const Visit& visit) {
    if (log_.log == nullptr && visit.pte.table()->HasLeaf()) return Detach(visit);
    EmptyTable(visit);
    return TablePost(visit);
  }

  VisitResult TablePost(const Visit& visit) {
    Table& table = *visit.pte.table();
    const uint32_t emptied = std::exchange(emptied_[table.level], 0);
    UNDERFOOT_SYNC_POINT("unmap-before-unref");
    if (emptied != 0) static_cast<void>(table.Unref(emptied));
    UnlinkIfEmpty(visit.table, visit.entry, table, counters_, batch_);
    return TableDone(visit);
  }

 private:
  static constexpr unsigned kTablesOfAWalk = 64;

  VisitResult TableDone(const Visit& visit) {
    if (++tables_ < kTablesOfAWalk) return VisitResult::kContinue;
    // The walk may stop here. It looks at the tables above on the way up, and the next walk looks
    // at them again.
    if (reached_ > visit.range.end) reached_ = visit.range.end;
    return VisitResult::kStop;
  }

  // Other threads may still change entries of the table until they leave their read sections. No
  // thread that comes from the root finds it any more, so none of its claims is published later
  // (P2). The thread whose compare-exchange succeeds retires the table.
  VisitResult Detach(const Visit& visit) {
    UNDERFOOT_SYNC_POINT("unmap-detach");
    if (!visit.entry.Replace(visit.pte, Pte())) {
      counters_.walk_retries.Add();
      return VisitResult::kRetry;
    }
    batch_.Add(visit.pte.table());
    ++detached_;
    ++emptied_[visit.level()];
    return TableDone(visit);
  }

  // Does for each entry of a table of pages what Leaf does, in a loop that builds no Visit: that is
  // most of the time of such an unmap. The entries are claims and leaves of one page only, so
  // nothing here needs memory or stops.
  void EmptyTable(const Visit& visit) {
    Table& table = *visit.pte.table();
    uint32_t emptied = 0;
    bool any_leaf = false;
    for (unsigned i = 0; i < kEntries; ++i) {
      Entry& entry = table.entries[i];
      const Gfn gfn = visit.covers.begin + i;
      // A CAS that lost has read the entry again: the leaf may have turned dirty, and the claim may
      // have become a leaf or a hole.
      for (Pte pte = entry.Load(); !pte.empty();) {
        const bool is_leaf = pte.is_leaf();
        if (RemoveLogged(pte, {gfn, gfn + 1}, [&] { return entry.CompareExchange(pte, Pte()); })) {
          ++emptied;
          any_leaf |= is_leaf;
          break;
        }
        counters_.walk_retries.Add();
      }
    }
    emptied_[0] += emptied;
    removed_[0] += emptied;
    unmaps_ += emptied;
    unmapped_ |= any_leaf;
  }

  // Calls `remove()`, which empties the entry that was read as `pte`. If the entry was a dirty
  // leaf, marks its pages in the log afterwards. False: the entry had changed, and `remove()` did
  // nothing.
  template <class Remove>
  bool RemoveLogged(Pte pte, GfnRange range, const Remove& remove) const {
    const bool dirty = pte.is_leaf() && pte.dirty();
    UNDERFOOT_SYNC_POINT("unmap-leaf");
    return dirty ? log_.MarkRemoved(range, remove) : remove();
  }

  // False: it is not what was visited any more. A leaf may have turned dirty.
  bool Remove(const Visit& visit) {
    if (visit.pte.is_leaf() && !visit.whole()) return RemovePart(visit);
    if (!visit.entry.Replace(visit.pte, Pte())) return false;
    ++emptied_[visit.level()];
    ++removed_[visit.level()];
    ++unmaps_;
    unmapped_ |= visit.pte.is_leaf();
    return true;
  }

  bool RemovePart(const Visit& visit) {
    PrivateTable rest = BuildSplit(visit.pte.WithTag(0), visit.level(), visit.covers, visit.range,
                                   [](Pte) { return Pte(); });
    if (!PublishTree(visit.entry, visit.pte, std::move(rest), counters_)) return false;
    ++unmaps_;
    unmapped_ = true;
    return true;
  }

  Stage2Counters& counters_;
  RetiredBatch& batch_;
  const DirtySink log_;
  Gfn reached_;
  std::optional<GfnRange> unsplit_;
  unsigned tables_ = 0;
  uint64_t detached_ = 0;
  bool unmapped_ = false;
  uint64_t unmaps_ = 0;                                // leaves and claims
  std::array<uint64_t, kMaxLeafLevel + 1> removed_{};  // of these, the whole entries
  std::array<uint32_t, kLevels> emptied_{};            // references to drop, by the table's level
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_UNMAP_VISITOR_H_
