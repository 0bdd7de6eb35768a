// The set of hva ranges whose invalidation is in flight: from Begin until the matching End.
//
// Each bracket has a word of its own, so the set is precise: two brackets far apart do not make one
// hull between them, and an installer that meets a bracket waits for the End of that one and no
// other.
//
// Thread safety: any thread. No lock; a bracket is a count, not a lock, and may span a syscall.
// Invariants: I1 (nothing is installed while its range is here), I3 (a word is taken once, freed
// once).

#ifndef UNDERFOOT_MMU_INVALIDATION_H_
#define UNDERFOOT_MMU_INVALIDATION_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "mmu/range_word.h"
#include "mmu/types.h"

namespace underfoot {

class InFlightRanges {
 private:
  struct Chunk;

 public:
  // A place in the set, held from Add to Remove.
  struct Place {
    Chunk* chunk = nullptr;
    unsigned index = 0;
  };

  // A bracket as an installer meets it: the epoch tells it from a later bracket in the same place.
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

  // Never waits and never fails: the set grows when it is full.
  Place Add(HvaRange range);
  // Once per Add.
  void Remove(const Place& place);

  // A bracket that overlaps `range`, if there is one. Ordered after the caller's own claim (P1,
  // I2).
  std::optional<Bracket> FindOverlap(HvaRange range) const;

  // Whether a bracket other than the one at `mine` overlaps `range`. Ordered after the caller's own
  // walk.
  bool OverlapsAnother(const Place& mine, HvaRange range) const;

  bool InFlight(const Bracket& bracket) const;

  // Returns when this bracket has ended. Never call it inside a bracket of the same thread.
  void WaitForEnd(const Bracket& bracket) const;

  uint64_t count() const;

  // In the set for the life of a scope: for whoever drops translations outside of a bracket.
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
  template <class Matches>
  std::optional<Bracket> Find(const Matches& matches) const;

  struct Chunk {
    // 0 is free.
    std::array<std::atomic<uint64_t>, kChunkSize> words{};
    // Moves after a word was freed: what waiters sleep on.
    std::array<std::atomic<uint32_t>, kChunkSize> epochs{};
    // Words at and above it were never used: a search ends there.
    std::atomic<unsigned> limit{0};
    std::atomic<Chunk*> next{nullptr};
  };

  Chunk* NextChunk(Chunk* chunk);

  std::unique_ptr<Chunk> first_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_INVALIDATION_H_
