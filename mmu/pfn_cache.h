// A pfn cache: a translation that a device or a shared page uses over and over. A check is short; a
// refresh brings the translation back after an invalidation has dropped it.
//
//            Activate, Refresh           found and published
//   INVALID ------------------> PENDING ---------------------> VALID
//      ^     (listed at its hva)   |      Begin, Deactivate      |
//      +---------------------------+-----------------------------+
//
// Check opens a read section on a VALID cache. The pages do not change until the section is left. A
// refresh lists the cache at its hva before it looks the page up (P4.2 before P4.4). A Begin that
// starts meanwhile therefore finds the cache and takes PENDING away, and the refresh repeats the
// look-up. A bracket over another range never causes a retry (I9).
//
// A write through a cache sets no dirty bit in a leaf. The code that writes calls MarkDirty inside
// the section. A cache keyed by hva belongs to no memslot and so to no log, as in the kernel.
//
// Thread safety: any thread calls Check, with its own Reader. Any thread calls Activate, Refresh
// and Deactivate, outside of sections and brackets; these three exclude each other. A cache must be
// deactivated before it is destroyed.
// Errors: absl::Status or RefreshOutcome; std::bad_alloc without memory. A cache destroyed while
// active is a bug and aborts.
// Units and limits: `bytes` at a byte address, at most kMaxPages pages of 4 KiB.
// Invariants: I1, I8, I9, I10, I11.
// After: virt/kvm/pfncache.c in Linux: struct gfn_to_pfn_cache with kvm_gpc_activate,
// kvm_gpc_check, kvm_gpc_refresh and kvm_gpc_deactivate.

#ifndef UNDERFOOT_MMU_PFN_CACHE_H_
#define UNDERFOOT_MMU_PFN_CACHE_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/range_word.h"
#include "mmu/base/sync_point.h"
#include "mmu/base/types.h"
#include "mmu/caches/pfn_cache_index.h"
#include "mmu/memslot.h"
#include "mmu/page_source.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/dirty_log.h"

namespace underfoot {

class Mmu;

enum class [[nodiscard]] RefreshOutcome{
    kValid,          kInactive,
    kNoMemslot,       // the gpa range is not inside one memslot that grants the access
    kRemovalPending,  // use the page by hva; no translation of it may be kept now
    kAgain,           // the page source answered kAgain until the retries ran out; retry later
    kFailed,          // the page source cannot bring the page in
};

class PfnCache;

// Access to a checked cache. The bytes at data() are the pages of the cache until this object is
// destroyed.
class CacheSection {
 public:
  CacheSection() = default;
  CacheSection(Section section, std::byte* data, PfnCache& cache)
      : section_(std::move(section)), data_(data), cache_(&cache) {}
  explicit operator bool() const { return section_.open(); }
  std::byte* data() const { return data_; }

  // Records that this section writes to the pages of the cache. Each section that writes must call
  // it, before or after the write.
  void MarkDirty() const;

 private:
  Section section_;
  std::byte* data_ = nullptr;
  PfnCache* cache_ = nullptr;
};

class PfnCache : private IndexedCache {
 public:
  using Key = std::variant<Gpa, Hva>;
  using IndexedCache::kMaxPages;

  PfnCache(Mmu& mmu, std::string name);
  ~PfnCache();
  PfnCache(const PfnCache&) = delete;
  PfnCache& operator=(const PfnCache&) = delete;

  // Gives the cache a key and makes it valid. A gpa range must lie in one memslot; a range must lie
  // within kMaxPages pages. If the cache is active already, it gets the new key.
  absl::Status Activate(const Reader& reader, Key key, uint64_t bytes, Access access)
      ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // Returns an empty section if the cache is not valid. The caller then calls Refresh or takes its
  // slow path. Always inlined: a call would return the section through memory, and the next load
  // would wait for it.
  [[gnu::always_inline]] CacheSection Check(Reader& reader) {
    // Relaxed: a first guess at what to announce. The second load decides.
    const uint64_t seen = state_.load(kRelaxed);
    if ((seen & kValid) == 0) [[unlikely]] {
      reader.line_->misses.Add();
      return {};
    }
    Section section(reader, seen & ~ReaderKey::kNonceMask);
    UNDERFOOT_SYNC_POINT("check-announced");
    // Pairs with: IndexedCache::Drop (P3). Without it: see Section.
    if (state_.load(kStoreLoad) != seen) [[unlikely]] {
      section.CountAsOther();
      reader.line_->misses.Add();
      return {};
    }
    // Relaxed: ageing may see the access a moment later. Tested first, since all readers share the
    // cache line.
    if (!young_.load(kRelaxed)) young_.store(true, kRelaxed);
    return {std::move(section), data_.load(kRelaxed), *this};  // relaxed: the state orders it
  }

  // Makes an active cache valid. Returns at once if it is valid. If Refresh throws (std::bad_alloc,
  // or an exception of the page source), the cache stays active and is not valid. If Activate
  // throws, the cache is inactive.
  RefreshOutcome Refresh(const Reader& reader) ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // Makes the cache inactive. Returns when no reader uses it any more.
  void Deactivate() ABSL_LOCKS_EXCLUDED(refresh_mutex_);

  // A description for inspection. Describe does not wait for a refresh; each field may be out of
  // date at once, and the fields need not belong together.
  struct Description {
    std::string name;
    Key key;
    uint64_t bytes = 0;
    bool writable = false;
    bool pending = false;
    bool valid = false;
    Hva hva;                // of the first page, if pending or valid
    std::vector<Pfn> pfns;  // of each page, if valid
    Pfn pfn() const { return pfns.empty() ? Pfn{} : pfns.front(); }
    uint64_t refreshes = 0;
    uint64_t invalidations = 0;
  };
  Description Describe() const;

 private:
  friend class CacheSection;

  struct Target {
    HvaRange range;               // whole pages
    std::optional<Memslot> slot;  // of a cache keyed by gpa
  };

  RefreshOutcome ActivateLocked(const Reader& reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  PageInResult PageInLocked(Hva page) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  RefreshOutcome RefreshLocked(const Reader& reader) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  RefreshOutcome TranslateLocked(Target& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  RefreshOutcome LookUpLocked(const Reader& reader, const Target& target)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  void DrainLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);
  uint64_t PagesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(refresh_mutex_);

  // Written while the state is PENDING. A reader of the earlier translation may still be on its way
  // out of Check; it reads the same value, because code that changes the value first waits for the
  // readers.
  std::atomic<std::byte*> data_{nullptr};
  // The same holds here, except that a change of the slot's flags brings another log for the same
  // pages. Pairs with: CacheSection::MarkDirty. Without it: the writer marks words that are not yet
  // cleared. A log is freed only after the cache was dropped and its sections were left, so a
  // section may use it.
  std::atomic<DirtyLog*> log_{nullptr};
  std::atomic<uint64_t> log_page_{0};
  std::atomic<uint64_t> log_pages_{0};

  Mmu& mmu_;
  const std::string name_;

  // Guards: the key and the way from INVALID to VALID. Order: group 1, before
  // PfnCacheIndex::mutex_. Held across: the look-up of the page, which may sleep. Never held
  // across: a reader section. An invalidation never takes it.
  absl::Mutex refresh_mutex_;
  bool active_ ABSL_GUARDED_BY(refresh_mutex_) = false;
  Key key_ ABSL_GUARDED_BY(refresh_mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(refresh_mutex_) = 0;
  Access access_ ABSL_GUARDED_BY(refresh_mutex_) = Access::kRead;
  HvaRange announced_ ABSL_GUARDED_BY(refresh_mutex_);  // what readers may use
  // Copies for Describe, written under refresh_mutex_ before the cache is listed.
  std::atomic<uint64_t> described_address_{0};
  std::atomic<uint64_t> described_bytes_{0};
  std::array<std::atomic<uint64_t>, kMaxPages> described_pfns_{};
  Counter refreshes_;
};

inline void CacheSection::MarkDirty() const {
  UNDERFOOT_CHECK(cache_->writable_.load(kRelaxed), "a write through a read-only pfn cache", 0, 0);
  if (DirtyLog* log = cache_->log_.load(kAcquire)) {
    log->Mark(cache_->log_page_.load(kRelaxed), cache_->log_pages_.load(kRelaxed));
  }
}

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PFN_CACHE_H_
