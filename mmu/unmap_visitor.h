// Removes every leaf of a range, steals every claim, unlinks every table that this empties. Stops
// after a few tables, so that a teardown can leave its read section and hand over.
//
// An emptied entry's reference to its table is dropped when the walk leaves the table, for all of
// them in one step: until then the table counts too many, which keeps it, and never too few.

#ifndef UNDERFOOT_MMU_UNMAP_VISITOR_H_
#define UNDERFOOT_MMU_UNMAP_VISITOR_H_

#include <array>
#include <utility>

#include "mmu/dirty_log.h"
#include "mmu/mutant.h"
#include "mmu/split.h"
#include "mmu/sync_point.h"
#include "mmu/unlink.h"
#include "mmu/walker.h"

namespace underfoot {

class UnmapVisitor {
 public:
  // `end` of the range that is walked.
  UnmapVisitor(Stage2Counters& counters, RetiredBatch& batch, DirtySink log, Gfn end)
      : counters_(counters), batch_(batch), log_(log), reached_(end) {}
  ~UnmapVisitor() {
    for (unsigned level = 0; level <= kMaxLeafLevel; ++level) {
      if (leaves_[level] != 0) counters_.leaves(level).Sub(leaves_[level]);
    }
    if (unmaps_ != 0) counters_.unmaps.Add(unmaps_);
  }
  UnmapVisitor(const UnmapVisitor&) = delete;
  UnmapVisitor& operator=(const UnmapVisitor&) = delete;

  bool unmapped() const { return unmaps_ != 0; }
  Gfn reached() const { return reached_; }

  VisitResult Leaf(const Visit& visit) {
    if (visit.pte.is_claim() && UNDERFOOT_MUTANT("unmap-spares-claims")) {
      return VisitResult::kContinue;
    }
    if (visit.pte.is_claim() && UNDERFOOT_MUTANT("unmap-waits-for-installers")) return Lost();
    const bool late = UNDERFOOT_MUTANT("unmap-logs-late");
    if (!late) LogDirty(visit);
    if (visit.pte.is_leaf() && !visit.whole()) return UnmapPart(visit);
    if (!late) UNDERFOOT_SYNC_POINT("unmap-half-way");
    const Pte expected = UNDERFOOT_MUTANT("unmap-by-store") ? visit.entry.Load() : visit.pte;
    if (!visit.entry.Replace(expected, Pte())) return Lost();
    if (late) UNDERFOOT_SYNC_POINT("unmap-half-way");
    if (late) LogDirty(visit);
    if (!UNDERFOOT_MUTANT("unmap-keeps-reference")) ++emptied_[visit.level()];
    if (visit.pte.is_leaf()) {
      ++leaves_[visit.level()];
      ++unmaps_;
    }
    return VisitResult::kContinue;
  }

  VisitResult TablePost(const Visit& visit) {
    Table& table = *visit.pte.table();
    const uint32_t emptied = std::exchange(emptied_[table.level], 0);
    UNDERFOOT_SYNC_POINT("unmap-before-unref");
    if (emptied != 0) static_cast<void>(table.Unref(emptied));
    UnlinkIfEmpty(visit.table, visit.entry, table, counters_, batch_);
    if (++tables_ < kTablesOfAWalk || UNDERFOOT_MUTANT("unmap-in-one-walk")) {
      return VisitResult::kContinue;
    }
    // Nothing is left behind: the tables above are looked at on the way up, and again by the next
    // walk.
    if (reached_ > visit.range.end) reached_ = visit.range.end;
    return VisitResult::kStop;
  }

 private:
  static constexpr unsigned kTablesOfAWalk = 64;

  // The log first, then the leaf: whoever collects meanwhile meets the bit in one of the two. And
  // a leaf that turns dirty in between is not the one that is replaced.
  void LogDirty(const Visit& visit) {
    if (visit.pte.is_leaf() && visit.pte.dirty() && !UNDERFOOT_MUTANT("unmap-forgets-dirty")) {
      log_.Mark(visit.range);
    }
  }

  VisitResult UnmapPart(const Visit& visit) {
    const GfnRange gone = UNDERFOOT_MUTANT("unmap-of-a-part-takes-more")
                              ? GfnRange{visit.covers.begin, visit.range.end}
                              : visit.range;
    PrivateTable rest = BuildSplit(visit.pte.WithTag(0), visit.level(), visit.covers, gone,
                                   [](Pte) { return Pte(); });
    if (!PublishSplit(visit, std::move(rest), counters_)) return Lost();
    ++unmaps_;
    return VisitResult::kContinue;
  }

  VisitResult Lost() {
    counters_.walk_retries.Add();
    return VisitResult::kRetry;
  }

  Stage2Counters& counters_;
  RetiredBatch& batch_;
  const DirtySink log_;
  Gfn reached_;
  unsigned tables_ = 0;
  uint64_t unmaps_ = 0;
  std::array<uint64_t, kMaxLeafLevel + 1> leaves_{};
  std::array<uint32_t, kLevels> emptied_{};  // references to drop, by the table's level
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_UNMAP_VISITOR_H_
