// The set of hva ranges whose invalidation is in flight, that is, between Begin and the matching
// End.
//
// Each bracket has a word of its own, so the set is precise. Two brackets that are far apart do not
// block the memory between them, and an installer that meets a bracket waits for the End of this
// bracket and of no other.
//
// The set grows by 64 words at a time. If there is no memory to grow, the bracket gets no word, and
// until its End it counts as in flight for every range. Some installers then wait although they do
// not overlap, but no Begin fails and no bracket is lost.
//
// Thread safety: any thread. There is no lock. A bracket is a count and not a lock; it may span a
// system call.
// Errors: Add cannot fail. To remove a place twice is a bug and aborts.
// Invariants: I1 (no translation is installed while its range is in the set), I3 (a word is taken
// once and freed once), I9 (a wait ends with the End of its bracket).
// Compare: mmu_invalidate_in_progress and mmu_invalidate_range_start in struct kvm of Linux, which
// merge all brackets into one range and one sequence number; and mn_active_invalidate_count, for
// which a memslot update of KVM waits. Ours does not wait for this set.

#ifndef UNDERFOOT_MMU_IN_FLIGHT_RANGES_H_
#define UNDERFOOT_MMU_IN_FLIGHT_RANGES_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "mmu/base/range_word.h"
#include "mmu/base/types.h"

namespace underfoot {

class InFlightRanges {
 private:
  struct Chunk;

 public:
  // A place in the set, held from Add to Remove. A place without a chunk stands for a bracket that
  // is in flight for every range.
  struct Place {
    Chunk* chunk = nullptr;
    unsigned index = 0;
  };

  // A bracket that an installer has met. The epoch differs from that of a later bracket in the same
  // place.
  struct Bracket {
    const Chunk* chunk = nullptr;
    unsigned index = 0;
    uint32_t epoch = 0;
    friend bool operator==(const Bracket&, const Bracket&) = default;
  };

  InFlightRanges();
  ~InFlightRanges();
  InFlightRanges(const InFlightRanges&) = delete;
  InFlightRanges& operator=(const InFlightRanges&) = delete;

  // Adds `range` to the set (P1.a). Never waits and never fails: if the set is full and cannot
  // grow, the bracket is in flight for every range.
  Place Add(HvaRange range) noexcept;
  // Removes the range (P1.d) and wakes the waiters. Called exactly once for each Add.
  void Remove(const Place& place);

  // Returns a bracket that overlaps `range`, if there is one. The search is ordered after the
  // caller's own claim (P1.2 after P1.1).
  std::optional<Bracket> FindOverlap(HvaRange range) const;

  // Whether a bracket other than the one at `mine` overlaps `range`. The search is ordered after
  // the caller's own walk.
  bool OverlapsAnother(const Place& mine, HvaRange range) const;

  bool InFlight(const Bracket& bracket) const;

  // Returns when this bracket has ended. A thread must not wait for a bracket that it has begun
  // itself and not ended.
  void WaitForEnd(const Bracket& bracket) const;

  uint64_t count() const;

  // Keeps a range in the set for the life of the scope. For code that drops translations outside of
  // a bracket.
  class Scope {
   public:
    Scope(InFlightRanges& ranges, HvaRange range) : ranges_(ranges), place_(ranges.Add(range)) {}
    ~Scope() { ranges_.Remove(place_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    InFlightRanges& ranges_;
    const Place place_;
  };

 private:
  static constexpr unsigned kChunkSize = 64;
  // Returns a bracket for which `matches` holds. `ignored` brackets without a word do not count:
  // the caller's own one.
  template <class Matches>
  std::optional<Bracket> Find(const Matches& matches, uint64_t ignored = 0) const;
  const std::atomic<uint32_t>& EpochOf(const Bracket& bracket) const {
    return bracket.chunk == nullptr ? wordless_epoch_ : bracket.chunk->epochs[bracket.index];
  }

  struct Chunk {
    // 0: the place is free.
    std::array<std::atomic<uint64_t>, kChunkSize> words{};
    // Incremented after the word was freed. Waiters sleep on it.
    std::array<std::atomic<uint32_t>, kChunkSize> epochs{};
    // Words at and above this index were never used, so a search ends here.
    std::atomic<unsigned> limit{0};
    std::atomic<Chunk*> next{nullptr};
  };

  static Chunk* NextChunk(Chunk* chunk) noexcept;

  std::unique_ptr<Chunk> first_;
  // The number of brackets without a word, and their epoch. Other threads use them as they use a
  // word and its epoch.
  std::atomic<uint64_t> wordless_{0};
  std::atomic<uint32_t> wordless_epoch_{0};
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_IN_FLIGHT_RANGES_H_
