// The secondary MMU of one virtual machine: its memslots, its stage-2 table and its pfn caches, and
// the notifier that keeps them consistent with the host mm. This class is the front of the library.
// mmu/README.md has the pictures and an example; mmu/CONTRACT.md has the invariants.
//
// The notifier has two subscribers: the index of the pfn caches, and the Mmu itself for stage-2.
// The Mmu finds the gfns of an invalidated hva range in the memslots and unmaps or protects them
// (P1.b, P5.b).
//
// Thread safety: any thread. The lock order is in mmu/LOCKING.md.
// Errors: absl::Status names the memslot and what is wrong with it. Without memory a call throws
// std::bad_alloc; in both cases nothing has changed.
// Units: Gfn counts pages of 4 KiB, Hva and Gpa count bytes.
// Invariants: keeps all of I1 to I11; the part that keeps each one is listed in mmu/CONTRACT.md.
// After: struct kvm with its memslots, and kvm_mmu_notifier_invalidate_range_start, in
// virt/kvm/kvm_main.c of Linux.

#ifndef UNDERFOOT_MMU_MMU_H_
#define UNDERFOOT_MMU_MMU_H_

#include <cstdint>
#include <span>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/base/invalidation.h"
#include "mmu/base/stats.h"
#include "mmu/caches/pfn_cache_index.h"
#include "mmu/direct_requests.h"
#include "mmu/fault.h"
#include "mmu/fault_around.h"
#include "mmu/in_flight_ranges.h"
#include "mmu/install.h"
#include "mmu/memslot.h"
#include "mmu/notifier.h"
#include "mmu/page_in_retries.h"
#include "mmu/page_source.h"
#include "mmu/range_fault.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/dirty_bitmap.h"
#include "mmu/stage2/stage2.h"
#include "mmu/translate.h"

namespace underfoot {

struct MemslotConfig {
  uint32_t id = 0;
  GfnRange gfns;
  Hva hva;  // of gfns.begin; page aligned
  MemslotFlags flags = {};
};

struct MmuOptions {
  // The tables that may wait to be freed, in bytes. See RetiredCapFor.
  uint64_t retired_cap_bytes = RetiredTables::kDefaultCapBytes;
  // The most page-ins that a waiting caller makes for one page while the page source answers
  // kAgain.
  unsigned page_in_tries = PageInRetries::kMost;
};

// A cap to which a teardown of all memory of a guest keeps, so that it waits for no grace period: its
// tables share one, for which the RCU worker waits. A grace period interrupts every CPU that runs a
// thread of the process. A teardown that makes one for each kDefaultCapBytes makes them so often that
// they are the p99 of faults elsewhere (tests/bench/README.md, "What a teardown does to the others").
// The price: until the tables of a teardown are free, those that the guest needs meanwhile exist beside
// them. So there may be twice the tables of the guest, and kDefaultCapBytes.
constexpr uint64_t RetiredCapFor(uint64_t guest_bytes) {
  return RetiredTables::kDefaultCapBytes + guest_bytes / (kEntries * kPageSize) * sizeof(Table);
}

class Mmu final : private Subscriber {
 public:
  // `source` must outlive the Mmu.
  explicit Mmu(PageSource& source, MmuOptions options = {});
  ~Mmu() override;
  Mmu(const Mmu&) = delete;
  Mmu& operator=(const Mmu&) = delete;

  // Memslot updates. One update runs at a time. An update waits for the readers of its slot and
  // never for a bracket, so it may be made inside a bracket. It must not be made inside a section.
  // Without memory it throws std::bad_alloc, and nothing has changed.
  absl::Status CreateMemslot(const MemslotConfig& config) ABSL_LOCKS_EXCLUDED(update_mutex_);
  absl::Status DeleteMemslot(uint32_t id) ABSL_LOCKS_EXCLUDED(update_mutex_);
  // As DeleteMemslot, for a slot with log_dirty. Returns the pages that a collection would have
  // returned after the last write through a translation of the slot.
  absl::StatusOr<DirtyBitmap> DeleteMemslotCollecting(uint32_t id)
      ABSL_LOCKS_EXCLUDED(update_mutex_);
  // Moves the slot to `first`; its host memory stays the same. In between, look-ups find the slot
  // at neither place. Pages that are in the dirty log stay in it.
  absl::Status MoveMemslot(uint32_t id, Gfn first) ABSL_LOCKS_EXCLUDED(update_mutex_);
  // When this returns, no write that the new flags forbid is possible, and each later write that
  // the new flags log is logged.
  absl::Status SetMemslotFlags(uint32_t id, MemslotFlags flags) ABSL_LOCKS_EXCLUDED(update_mutex_);

  // Returns the pages of a slot with log_dirty that were written since the last collection, and
  // clears the log. A write that ended before the call is reported by this call or was reported by
  // an earlier one. A write that runs at the same time is reported by this call or by the next one.
  // A page may also be reported if only the permission to write it was taken (a write fault, a
  // refresh). CollectDirty may be called inside a bracket and must not be called inside a section.
  // Without memory it throws std::bad_alloc, and the log keeps its pages.
  absl::StatusOr<DirtyBitmap> CollectDirty(uint32_t id) ABSL_LOCKS_EXCLUDED(update_mutex_);
  // Puts pages of a collection that its caller could not use back into the log of the slot: the
  // next collection reports them again. `pages` may be any pages of the slot. An error: the slot
  // does not exist, has no log or has another number of pages; nothing has been put back then.
  absl::Status GiveBackDirty(uint32_t id, const DirtyBitmap& pages)
      ABSL_LOCKS_EXCLUDED(update_mutex_);

  // See mmu/translate.h.
  TranslatedPage Translate(Reader& reader, Gpa gpa, Access access) {
    return underfoot::Translate(memslots_, stage2_, reader, gpa, access);
  }

  size_t Translate(const RangeSection& section, std::span<PagePiece> pieces) {
    return underfoot::Translate(memslots_, stage2_, section, pieces);
  }

  uint64_t MarkUsed(const RangeSection& section, GfnRange gfns, Access access) {
    return underfoot::MarkUsed(memslots_, stage2_, section, gfns, access);
  }

  Notifier& notifier() { return notifier_; }
  FaultHandler& faults() { return faults_; }
  RangeFaultHandler& range_faults() { return range_faults_; }
  FaultAroundHandler& faults_around() { return faults_around_; }
  Stage2& stage2() { return stage2_; }
  ReaderRegistry& readers() { return readers_; }
  PfnCacheIndex& caches() { return caches_; }
  DirectRequests& direct_requests() { return direct_requests_; }
  const MemslotTable& memslots() const { return memslots_; }
  const InFlightRanges& in_flight() const { return in_flight_; }
  PageSource& page_source() { return source_; }
  unsigned page_in_tries() const { return page_in_tries_; }

  MmuStats Stats() const;

 private:
  bool Invalidate(const Invalidation& invalidation) override;
  // Back-pressure, only for a bracket that has retired tables itself: a fault that invalidates a page
  // must not wait for the tables of a teardown elsewhere.
  void AfterInvalidate(const Invalidation& invalidation) override {
    if (invalidation.follow_up) stage2_.ThrottleRetired();
  }
  bool TestClearYoung(HvaRange range, bool clear) override;
  void RemoveBlock(const Memslot& slot, MmuGather& gather);

  void RemoveTranslations(const Memslot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  absl::Status DeleteLocked(uint32_t id, std::span<uint64_t> taken)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  absl::StatusOr<Memslot> LoggedSlot(uint32_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  void TakeDirty(const Memslot& slot, std::span<uint64_t> taken)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);

  PageSource& source_;
  const unsigned page_in_tries_;
  InFlightRanges in_flight_;
  ReaderRegistry readers_;
  DirectRequests direct_requests_;
  MemslotTable memslots_;
  Stage2 stage2_;
  PfnCacheIndex caches_;
  Notifier notifier_;
  const InstallParts install_parts_;
  FaultHandler faults_;
  RangeFaultHandler range_faults_;
  FaultAroundHandler faults_around_;

  // Guards: the publication of the next memslot set, and collections of dirty pages. Order: group 1
  // of LOCKING.md, never together with Notifier::publish_mutex_. Held across: walks over the leaves
  // of a slot, the wait for its readers, grace periods. Never held across: a bracket, a page-in.
  absl::Mutex update_mutex_;
  Counter updates_;
  Counter update_us_max_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MMU_H_
