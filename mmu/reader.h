// Read-side protection: what a reader of guest memory announces, and what an invalidation waits
// for.
//
// Each thread that reads translations owns a Reader: one cache line of slots. Entering a section
// exchanges the hva range into a slot, and only then are the cache's state or the table's root
// looked at; leaving stores 0. An invalidation clears the translation first and then waits for
// exactly those slots that overlap it (I11). The word carries a nonce and the waiter waits for a
// *change*, so that a reader that re-enters at once cannot starve it.
//
//   reader                                 invalidation (Begin)
//   slot.exchange(range | nonce)           translation.compare_exchange(-> none)
//   translation.load: valid?               slot.load: overlaps? then wait until the word changes
//     yes: use it   no: leave, slow path
//
// One of the two sees the other, for any interleaving (kStoreLoad). While no invalidation comes by,
// a plain store takes the place of the exchange: see mmu/reader_bias.h.
//
// Thread safety: ReaderRegistry: any thread. Reader and Section: the owning thread only.
// Never inside a section: Begin, Refresh, Deactivate, a page-in, a wait for a bracket.

#ifndef UNDERFOOT_MMU_READER_H_
#define UNDERFOOT_MMU_READER_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "mmu/check.h"
#include "mmu/membarrier.h"
#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "mmu/range_word.h"
#include "mmu/reader_bias.h"
#include "mmu/stats.h"
#include "mmu/sync_point.h"
#include "mmu/types.h"

namespace underfoot {

// Identifies the owner of a claimed stage-2 entry: 1..kMaxOwnerTag, unique among living readers.
using OwnerTag = uint16_t;
inline constexpr OwnerTag kMaxOwnerTag = 4095;

class ReaderRegistry;

namespace internal {

inline constexpr unsigned kSlotsPerReader = 6;

struct alignas(64) ReaderLine {
  std::array<std::atomic<uint64_t>, kSlotsPerReader> slots{};
  ReaderBias bias;
  std::atomic<bool> owned{false};
  OwnerTag tag = 0;
  // Written by the owner only, and never set back: the next owner of the line goes on with them.
  alignas(64) OwnedCounter sections;  // entered; the next one's nonce
  OwnedCounter other_sections;        // of them, those that were no hit of a pfn cache
  OwnedCounter misses;                // of pfn caches
};

}  // namespace internal

// A thread's registration. Cheap to keep, a few hundred ns to make; a Reader outside a section
// costs invalidations one look at its cache line.
class Reader {
 public:
  explicit Reader(ReaderRegistry& registry);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  OwnerTag tag() const { return line_->tag; }
  bool InSection() const {
    // Relaxed: its own slots.
    return std::any_of(line_->slots.begin(), line_->slots.end(),
                       [](const auto& slot) { return slot.load(kRelaxed) != 0; });
  }

 private:
  friend class DirectSection;
  friend class Section;
  friend class PfnCache;

  void EndWindow();

  ReaderRegistry& registry_;
  internal::ReaderLine* line_;
};

// An open read section. Empty when made by default or moved from.
class Section {
 public:
  Section() = default;
  // `key` comes from ReaderKey::Pack. A thread may have kSlotsPerReader sections open at once.
  Section(Reader& reader, uint64_t key) : line_(reader.line_), index_(FreeSlot(*line_)) {
    const uint64_t nonce =
        UNDERFOOT_MUTANT("nonce-stands-still") ? 1 : line_->sections.Get() & ReaderKey::kNonceMask;
    line_->sections.Add();
    std::atomic<uint64_t>& slot = line_->slots[index_];
    const bool held_before = UNDERFOOT_MUTANT("bias-is-read-first") && line_->bias.Held();
    UNDERFOOT_SYNC_POINT("section-entering");
    // Release: it may be what tells a Begin that the section before it in this slot was left.
    slot.store(key | nonce, kRelease);
    // These order the compiler. The CPU is ordered by the exchange, or by the membarrier of who
    // takes the bias away.
    std::atomic_signal_fence(kStoreLoad);
    if (!held_before && !line_->bias.Held()) {
      UNDERFOOT_SYNC_POINT("section-announced");
      // Pairs with: ReaderRegistry::WaitForReaders (P3: R1 with B6). Without it: the reader finds
      // the old translation valid, the invalidation finds no reader, and the page goes while it is
      // in use.
      slot.exchange(key | nonce, kStoreLoad);
      if (nonce % ReaderBias::kWindow == 0) reader.EndWindow();
    }
    std::atomic_signal_fence(kStoreLoad);
  }
  Section(Section&& other) noexcept
      : line_(std::exchange(other.line_, nullptr)), index_(other.index_) {}
  Section& operator=(Section&& other) noexcept {
    if (this != &other) {
      Leave();
      line_ = std::exchange(other.line_, nullptr);
      index_ = other.index_;
    }
    return *this;
  }
  ~Section() { Leave(); }

  bool open() const { return line_ != nullptr; }

  // It is no hit of a pfn cache.
  void CountAsOther() { line_->other_sections.Add(); }

  void Leave() {
    if (line_ == nullptr) return;
    // Pairs with: ReaderRegistry::WaitForReaders. Without it: the host changes the page while the
    // last access of the section is still under way.
    line_->slots[index_].store(0, kRelease);
    line_ = nullptr;
  }

 private:
  // The slots themselves say which are free: a store less than a mask would cost.
  static unsigned FreeSlot(const internal::ReaderLine& line) {
    unsigned index = 0;
    // Relaxed: its own slots.
    while (line.slots[index].load(kRelaxed) != 0) {
      ++index;
      UNDERFOOT_CHECK(index < internal::kSlotsPerReader, "too many read sections open at once",
                      index, line.tag);
    }
    return index;
  }

  internal::ReaderLine* line_ = nullptr;
  unsigned index_ = 0;
};

class ReaderRegistry {
 public:
  // Without membarriers each section costs a locked instruction.
  explicit ReaderRegistry(bool membarriers = RegisterMembarrier());
  ~ReaderRegistry();
  ReaderRegistry(const ReaderRegistry&) = delete;
  ReaderRegistry& operator=(const ReaderRegistry&) = delete;

  // Returns when every section that overlaps `range` and was open at the call has been left (or
  // left and entered again). Never inside a section of the calling thread that overlaps.
  void WaitForReaders(HvaRange range);

  // A wait longer than this aborts, naming the reader whose section it is: somebody forgot to
  // leave. Endless where NDEBUG is defined. Before the threads start.
  void SetPatience(absl::Duration patience) { patience_ = patience; }

  // Translations were dropped and their readers not waited for: until all of them have been seen
  // outside of any section, MustLook says so.
  void NoteUnwaited() {
    if (!UNDERFOOT_MUTANT("unwaited-is-forgotten")) unwaited_.fetch_add(1, kStoreLoad);
  }

  // Whether a section may be open on pages of which no translation is to be found.
  bool MustLook() const {
    return direct_.load(kStoreLoad) != 0 ||
           unwaited_.load(kStoreLoad) != waited_through_.load(kAcquire);
  }

  // Whether a section overlaps `range` now. May be wrong a moment later; and of a biased reader,
  // sees for certain only what came before a system call or a fault of its thread.
  bool AnySectionOverlapsUnsafe(HvaRange range) const;

  // Of pfn caches, by Check.
  uint64_t hits() const {
    const uint64_t others = Sum(&internal::ReaderLine::other_sections);  // first: never above
    // A section is another one a moment after it was entered: a total must not fall for that.
    hits_seen_.Max(Sum(&internal::ReaderLine::sections) - others);
    return hits_seen_.Get();
  }
  uint64_t misses() const { return Sum(&internal::ReaderLine::misses); }
  uint64_t waits() const { return waits_.Get(); }
  uint64_t membarriers() const { return membarriers_.Get(); }

 private:
  friend class DirectSection;
  friend class Reader;
#ifdef NDEBUG
  static constexpr absl::Duration kDefaultPatience = absl::InfiniteDuration();
#else
  static constexpr absl::Duration kDefaultPatience = absl::Seconds(30);
#endif
  static constexpr unsigned kLinesPerChunk = 32;
  struct Chunk;
  struct Scan;

  internal::ReaderLine* Acquire();
  void Release(internal::ReaderLine* line);
  void WaitForLine(const internal::ReaderLine& line, Scan& scan) const;
  void WaitForBiased(Scan& scan);
  uint64_t Sum(OwnedCounter internal::ReaderLine::*counter) const;
  void WaitForChange(const internal::ReaderLine& line, const std::atomic<uint64_t>& slot,
                     uint64_t word) const;
  template <class Visitor>
  void ForEachLine(const Visitor& visit) const;

  const bool membarriers_work_;
  std::unique_ptr<Chunk> first_;
  // Lines at and above it were never owned: a scan ends there.
  std::atomic<unsigned> limit_{0};
  // Open DirectSections. Pairs with: MustLook. Without it: a Begin that finds no translation passes
  // over the section.
  std::atomic<uint64_t> direct_{0};
  // Begins that did not wait, and how many of them had their readers seen leave since.
  std::atomic<uint64_t> unwaited_{0};
  std::atomic<uint64_t> waited_through_{0};
  mutable Counter hits_seen_;
  absl::Duration patience_ = kDefaultPatience;
  Counter waits_;        // a Begin met a reader and had to wait
  Counter membarriers_;  // a Begin met a biased reader
};

// A section for access by hva, without a translation that a Begin could find and drop: while one is
// open every Begin looks at the readers. Open it, then look for a bracket in flight, then use the
// page.
class DirectSection {
 public:
  DirectSection(Reader& reader, uint64_t key) : registry_(reader.registry_) {
    if (!UNDERFOOT_MUTANT("direct-section-unannounced")) registry_.direct_.fetch_add(1, kStoreLoad);
    section_ = Section(reader, key);
    section_.CountAsOther();
  }
  ~DirectSection() {
    section_.Leave();
    if (!UNDERFOOT_MUTANT("direct-section-unannounced")) registry_.direct_.fetch_sub(1, kRelease);
  }
  DirectSection(const DirectSection&) = delete;
  DirectSection& operator=(const DirectSection&) = delete;

 private:
  ReaderRegistry& registry_;
  Section section_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_READER_H_
