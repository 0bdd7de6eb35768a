// A pfn cache: a translation that a device or a shared page uses over and over, checked in
// nanoseconds and refreshed when an invalidation has dropped it.
//
//            Activate, Refresh           found and published
//   INVALID ------------------> PENDING ---------------------> VALID
//      ^     (listed at its hva)   |      Begin, Deactivate      |
//      +---------------------------+-----------------------------+
//
// Check opens a read section on what is VALID; the pages stay until the section is left. A cache is
// listed at its hva before its page is looked up, so a Begin that starts meanwhile finds it and
// takes PENDING away: the look-up is then repeated, and never because of an unrelated range (I9).
//
// A write through a cache sets no bit of a leaf. Whoever writes says so, with MarkDirty inside the
// section; a cache keyed by hva lies in no memslot and so in no log, as in the kernel.
//
// Thread safety: Check: any thread with its own Reader. Activate, Refresh, Deactivate: any thread
// outside of sections and brackets; they exclude each other. Deactivate before destruction.
// Invariants: I1, I8, I9, I10, I11.
// After: virt/kvm/pfncache.c in Linux.

#ifndef UNDERFOOT_MMU_PFN_CACHE_H_
#define UNDERFOOT_MMU_PFN_CACHE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/check.h"
#include "mmu/dirty_log.h"
#include "mmu/mutant.h"
#include "mmu/notifier.h"
#include "mmu/ordering.h"
#include "mmu/range_word.h"
#include "mmu/reader.h"
#include "mmu/sync_point.h"
#include "mmu/types.h"

namespace underfoot {

class Mmu;

enum class [[nodiscard]] RefreshOutcome{
    kValid,     kInactive,
    kNoMemslot,  // the gpa range lies in no memslot, not in one, or in a read-only one
    kSettling,   // the page may be used by hva, but no translation of it may be kept now
    kFailed,     // the page cannot be brought in
};

class PfnCache;

// Access to a checked cache. The bytes at data() are the cache's, until this goes.
class CacheSection {
 public:
  CacheSection() = default;
  CacheSection(Section section, std::byte* data, PfnCache& cache)
      : section_(std::move(section)), data_(data), cache_(&cache) {}
  explicit operator bool() const { return section_.open(); }
  std::byte* data() const { return data_; }

  // The pages of the cache are written in this section: before or after, in any section that
  // writes.
  void MarkDirty() const;

 private:
  Section section_;
  std::byte* data_ = nullptr;
  PfnCache* cache_ = nullptr;
};

class PfnCache {
 public:
  using Key = std::variant<Gpa, Hva>;
  static constexpr uint64_t kMaxPages = 16;

  PfnCache(Mmu& mmu, std::string name);
  ~PfnCache();
  PfnCache(const PfnCache&) = delete;
  PfnCache& operator=(const PfnCache&) = delete;

  // The range must lie in one memslot (gpa) and within kMaxPages pages. An active cache gets a new
  // key.
  absl::Status Activate(const Reader& reader, Key key, uint64_t bytes, Access access)
      ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // Empty when the cache is not valid: then Refresh, or take the slow path. Always inlined: called,
  // it would return through memory what the next load waits for.
  [[gnu::always_inline]] CacheSection Check(Reader& reader) {
    // Relaxed: a first guess at what to announce; the load below decides.
    const uint64_t seen = state_.load(kRelaxed);
    if ((seen & kValid) == 0) [[unlikely]] {
      reader.line_->misses.Add();
      return {};
    }
    Section section(reader, seen & ~ReaderKey::kNonceMask);
    UNDERFOOT_SYNC_POINT("check-announced");
    // Pairs with: PfnCache::Drop (P3: R2 with B5). Without it: see Section.
    if (state_.load(kStoreLoad) != seen && !UNDERFOOT_MUTANT("check-trusts-first-look"))
        [[unlikely]] {
      section.CountAsOther();
      reader.line_->misses.Add();
      return {};
    }
    // Relaxed: ageing may be a moment late. Tested first, since the line is shared by all readers.
    if (!young_.load(kRelaxed)) young_.store(true, kRelaxed);
    return {std::move(section), data_.load(kRelaxed), *this};  // relaxed: ordered by the state
  }

  // Makes an active cache valid; returns at once when it is.
  RefreshOutcome Refresh(const Reader& reader) ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // Returns when no reader uses the cache any more.
  void Deactivate() ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // For inspection, without waiting for a refresh: a snapshot that may be old at once, field by
  // field.
  struct Description {
    std::string name;
    Key key;
    uint64_t bytes = 0;
    bool writable = false;
    bool pending = false;
    bool valid = false;
    Hva hva;                // of the first page when pending or valid
    std::vector<Pfn> pfns;  // of each page when valid
    Pfn pfn() const { return pfns.empty() ? Pfn{} : pfns.front(); }
    uint64_t refreshes = 0;
    uint64_t invalidations = 0;
  };
  Description Describe() const;

 private:
  friend class CacheSection;
  friend class PfnCacheIndex;

  static constexpr uint64_t kValid = 1;
  static constexpr uint64_t kPending = 2;

  struct Target {
    HvaRange range;  // whole pages
    uint64_t slot_uid = 0;
    DirtyLog* log = nullptr;
    uint64_t log_page = 0;  // of the first page
  };

  bool gpa_keyed() const { return gpa_keyed_.load(kRelaxed); }
  bool Drop(InvalidationKind kind);
  bool TestClearYoung(bool clear);

  RefreshOutcome RefreshLocked(const Reader& reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  RefreshOutcome TranslateLocked(Target& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  RefreshOutcome LookUpLocked(const Reader& reader, const Target& target)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  bool SlotIsCurrentLocked(const Target& target) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  void DrainLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  uint64_t PagesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);

  Mmu& mmu_;
  const std::string name_;

  // The range key of ReaderKey, with kValid or kPending in the place of the nonce; 0 is INVALID.
  std::atomic<uint64_t> state_{0};
  std::atomic<bool> young_{false};
  // Written while the state is PENDING. A reader of the translation before may still be on its way
  // out of Check: it finds the same value, since whatever changes it drains the readers first.
  std::atomic<std::byte*> data_{nullptr};
  // Likewise, but for a change of the slot's flags, which brings another log for the same pages.
  // Pairs with: CacheSection::MarkDirty. Without it: the writer marks words not yet cleared.
  // A log is freed after the cache was dropped and its sections were left, so a section may use it.
  std::atomic<DirtyLog*> log_{nullptr};
  std::atomic<uint64_t> log_page_{0};
  std::atomic<uint64_t> log_pages_{0};

  // Guards: the key and the way from INVALID to VALID. Order: before PfnCacheIndex::mutex_. Held
  // across the look-up, which sleeps; so never taken by an invalidation, and never inside a
  // section.
  absl::Mutex refresh_mutex_;
  bool active_ ABSL_GUARDED_BY(refresh_mutex_) = false;
  Key key_ ABSL_GUARDED_BY(refresh_mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(refresh_mutex_) = 0;
  Access access_ ABSL_GUARDED_BY(refresh_mutex_) = Access::kRead;
  HvaRange announced_ ABSL_GUARDED_BY(refresh_mutex_);  // what readers may be using
  // Copies for the index and for Describe. Relaxed: written under refresh_mutex_ before the cache
  // is listed.
  std::atomic<bool> gpa_keyed_{true};
  std::atomic<bool> writable_{false};
  std::atomic<uint64_t> described_address_{0};
  std::atomic<uint64_t> described_bytes_{0};
  std::array<std::atomic<uint64_t>, kMaxPages> described_pfns_{};
  HvaRange listed_;  // guarded by PfnCacheIndex::mutex_
  Counter refreshes_;
  Counter invalidations_;
};

inline void CacheSection::MarkDirty() const {
  UNDERFOOT_CHECK(cache_->writable_.load(kRelaxed), "a write through a read-only pfn cache", 0, 0);
  if (UNDERFOOT_MUTANT("cache-forgets-dirty")) return;
  if (DirtyLog* log = cache_->log_.load(kAcquire)) {
    log->Mark(cache_->log_page_.load(kRelaxed), cache_->log_pages_.load(kRelaxed));
  }
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PFN_CACHE_H_
