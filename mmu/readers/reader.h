// Read-side protection: a reader announces which guest memory it uses, and an invalidation waits
// for those announcements.
//
// Each thread that reads translations owns a Reader, a cache line of slots. To enter a section, the
// reader writes the hva range into a slot, by an atomic exchange. Only then does it look at the
// state of the cache or at the root of the table. To leave, it stores 0. An invalidation first
// empties the translation and then waits for exactly those slots that overlap its range (I11). A
// slot also holds a nonce that differs from section to section, and the waiter waits until the word
// in the slot *changes*. Otherwise a reader that leaves and enters again at once could delay the
// waiter for ever.
//
//   reader                                 invalidation (Begin)
//   slot.exchange(range | nonce)           translation.compare_exchange(-> none)
//   translation.load: valid?               slot.load: overlaps? then wait until the word changes
//     yes: use it   no: leave, slow path
//
// In every interleaving at least one of the two sees the other (kStoreLoad; P3). If no other thread
// has looked at the slots of a reader for a while, the reader becomes biased: it then enters a
// section by a plain store in place of the exchange. WaitForReaders looks at all readers, whatever
// its range is, and takes their bias away: see mmu/readers/reader_bias.h.
//
// Thread safety: any thread may use ReaderRegistry. Only the owning thread may use a Reader or a
// Section. Inside a section a thread must not call Begin for an overlapping range, a fault,
// Activate, Refresh, Deactivate, a memslot update or CollectDirty, and must not wait for a bracket.
// Each of these may wait for this very section.
// Errors: too many readers or sections, and a reader that ends inside a section, are bugs and
// abort.
// Invariants: I1 (no reader of an old translation is missed), I11.
// Compare: hazard pointers. A slot here holds a range and not a pointer.

#ifndef UNDERFOOT_MMU_READERS_READER_H_
#define UNDERFOOT_MMU_READERS_READER_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "mmu/base/check.h"
#include "mmu/base/membarrier.h"
#include "mmu/base/ordering.h"
#include "mmu/base/range_word.h"
#include "mmu/base/stats.h"
#include "mmu/base/sync_point.h"
#include "mmu/base/types.h"
#include "mmu/readers/reader_bias.h"

namespace underfoot {

// Identifies the owner of a claimed stage-2 entry: 1..kMaxOwnerTag, unique among the readers that
// exist.
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
  // Written by the owner only and never reset: the next owner of the line continues with these
  // values.
  alignas(64) OwnedCounter sections;  // entered so far, and the nonce of the next one
  OwnedCounter other_sections;        // those of them that were not a hit of a pfn cache
  OwnedCounter misses;                // of pfn caches
};

}  // namespace internal

// The registration of a thread. To make one takes a search for a free line, and to keep it costs
// nearly nothing: an invalidation that scans the readers loads the reader's cache line once.
class Reader {
 public:
  explicit Reader(ReaderRegistry& registry);
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  OwnerTag tag() const { return line_->tag; }
  bool InSection() const {
    // Relaxed: only this thread writes these slots.
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

// An open read section. Empty if it was made by default or was moved from.
class Section {
 public:
  Section() = default;
  // `key` comes from ReaderKey::Pack. A thread may have kSlotsPerReader sections open at once; one
  // more aborts.
  Section(Reader& reader, uint64_t key) : line_(reader.line_), index_(FreeSlot(*line_)) {
    const uint64_t nonce = line_->sections.Get() & ReaderKey::kNonceMask;
    line_->sections.Add();
    std::atomic<uint64_t>& slot = line_->slots[index_];
    UNDERFOOT_SYNC_POINT("section-entering");
    // Release: a Begin may learn only from this store that the previous section in this slot was
    // left. Without it: the host changes the page while the last access of that section is under
    // way.
    slot.store(key | nonce, kRelease);
    // The two signal fences order the compiler. The CPU is ordered by the exchange or, for a biased
    // reader, by the membarrier of the Begin that takes the bias away.
    std::atomic_signal_fence(kStoreLoad);
    if (!line_->bias.Held()) {
      UNDERFOOT_SYNC_POINT("section-announced");
      // Pairs with: ReaderRegistry::WaitForReaders (P3). Without it: the reader finds the old
      // translation valid, the invalidation finds no reader, and the host changes the page while
      // the reader uses it.
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

  // Counts this section as one that is not a hit of a pfn cache.
  void CountAsOther() { line_->other_sections.Add(); }

  void Leave() {
    if (line_ == nullptr) return;
    // Pairs with: ReaderRegistry::WaitForReaders. Without it: the host changes the page while the
    // last access of the section is still under way.
    line_->slots[index_].store(0, kRelease);
    line_ = nullptr;
  }

 private:
  // A slot is free if it is 0. A separate mask of free slots would cost one more store for each
  // section.
  static unsigned FreeSlot(const internal::ReaderLine& line) {
    unsigned index = 0;
    // Relaxed: only this thread writes these slots.
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
  // If `membarriers` is false, no reader becomes biased, and each section costs a locked
  // instruction.
  explicit ReaderRegistry(bool membarriers = RegisterMembarrier());
  ~ReaderRegistry();
  ReaderRegistry(const ReaderRegistry&) = delete;
  ReaderRegistry& operator=(const ReaderRegistry&) = delete;

  // Waits until each section that overlaps `range` and was open at the time of the call was left.
  // A section that its reader has left and entered again counts as left. The calling thread
  // must not be inside a section that overlaps `range`.
  void WaitForReaders(HvaRange range);

  // If a wait takes longer than `patience`, the process aborts and prints the tag of the reader
  // that has not left its section. Without this call the limit is 30 seconds, or infinite if NDEBUG
  // is defined. Must be called before the threads start.
  void SetPatience(absl::Duration patience) { patience_ = patience; }

  // Records that a bracket has dropped translations and has not waited for their readers. From then
  // on MustLook returns true, and every Begin scans the readers, until one scan finds every slot
  // empty. A scan that meets a reader inside any section does not count, even if it waits for it.
  void NoteUnwaited() { unwaited_.fetch_add(1, kStoreLoad); }

  // Whether a section may be open on pages for which a walk finds no translation.
  bool MustLook() const {
    return direct_.load(kStoreLoad) != 0 ||
           unwaited_.load(kStoreLoad) != waited_through_.load(kAcquire);
  }

  // Whether a section overlaps `range` now. The answer may be out of date a moment later. It may
  // also miss a section of a biased reader that was entered since the last system call or page
  // fault of the reader's thread. Only for checks and inspection, which must not rely on it.
  bool AnySectionOverlapsUnsafe(HvaRange range) const;

  // Hits and misses of pfn caches, counted by PfnCache::Check.
  uint64_t hits() const {
    // `others` is read before the sum of all sections, so it is never above that sum.
    const uint64_t others = Sum(&internal::ReaderLine::other_sections);
    // Check counts a section as "other" a moment after it has entered it. The difference may
    // therefore fall for a moment; the total that is reported must not.
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
  // A scan ends at this tag: no line with a higher tag was ever owned.
  std::atomic<unsigned> limit_{0};
  // The number of open DirectSections. Pairs with: MustLook. Without it: a Begin that finds no
  // translation skips the wait although a section by hva is open.
  std::atomic<uint64_t> direct_{0};
  // `unwaited_` counts the brackets that did not wait for readers. A scan that has found every slot
  // of every reader empty stores in `waited_through_` the count from before the scan: no reader
  // still uses what those brackets dropped.
  std::atomic<uint64_t> unwaited_{0};
  std::atomic<uint64_t> waited_through_{0};
  mutable Counter hits_seen_;
  absl::Duration patience_ = kDefaultPatience;
  Counter waits_;        // scans that met a reader and had to wait
  Counter membarriers_;  // membarriers made because a scan met biased readers
};

// A section for access by hva, without a translation that a Begin could find and drop. While one is
// open, every Begin looks at the readers. The caller opens it, then checks that no overlapping
// bracket is in flight, and only then uses the page.
class DirectSection {
 public:
  DirectSection(Reader& reader, uint64_t key) : registry_(reader.registry_) {
    registry_.direct_.fetch_add(1, kStoreLoad);
    section_ = Section(reader, key);
    section_.CountAsOther();
  }
  ~DirectSection() {
    section_.Leave();
    registry_.direct_.fetch_sub(1, kRelease);
  }
  DirectSection(const DirectSection&) = delete;
  DirectSection& operator=(const DirectSection&) = delete;

 private:
  ReaderRegistry& registry_;
  Section section_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_READERS_READER_H_
