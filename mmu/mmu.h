// One virtual machine's secondary MMU: its memslots, its stage-2 and its pfn caches, and the
// notifier that keeps them in step with the host mm. This is the front of the library;
// mmu/README.md has the pictures.
//
// Thread safety: any thread. Lock order: see mmu/LOCKING.md.

#ifndef UNDERFOOT_MMU_MMU_H_
#define UNDERFOOT_MMU_MMU_H_

#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/dirty_bitmap.h"
#include "mmu/fault.h"
#include "mmu/fault_around.h"
#include "mmu/invalidation.h"
#include "mmu/memslot.h"
#include "mmu/notifier.h"
#include "mmu/page_source.h"
#include "mmu/pfn_cache_index.h"
#include "mmu/range_fault.h"
#include "mmu/reader.h"
#include "mmu/stage2.h"
#include "mmu/stage2_subscriber.h"
#include "mmu/stats.h"
#include "mmu/translate.h"

namespace underfoot {

struct MemslotConfig {
  uint32_t id = 0;
  GfnRange gfns;
  Hva hva;  // of gfns.begin, page aligned
  MemslotFlags flags = {};
};

struct MmuOptions {
  uint64_t retired_cap_bytes = RetiredTables::kDefaultCapBytes;
};

class Mmu {
 public:
  // `source` outlives the Mmu.
  explicit Mmu(PageSource& source, MmuOptions options = {});
  ~Mmu();
  Mmu(const Mmu&) = delete;
  Mmu& operator=(const Mmu&) = delete;

  // Updates exclude each other and wait for readers of the slot, never for a bracket; allowed
  // inside one.
  absl::Status CreateMemslot(const MemslotConfig& config) ABSL_LOCKS_EXCLUDED(update_mutex_);
  absl::Status DeleteMemslot(uint32_t id) ABSL_LOCKS_EXCLUDED(update_mutex_);
  // The same memory from `first` on. It is found nowhere in between. What was logged stays logged.
  absl::Status MoveMemslot(uint32_t id, Gfn first) ABSL_LOCKS_EXCLUDED(update_mutex_);
  // On return nothing can be written that must not be, and every later write is logged that must
  // be.
  absl::Status SetMemslotFlags(uint32_t id, MemslotFlags flags) ABSL_LOCKS_EXCLUDED(update_mutex_);

  // The pages of a slot with log_dirty that were written since the last collection, and forgets
  // them. A write that has ended before the call is reported, now or by an earlier call; one that
  // runs beside it, now or next time. A page may be reported though only the permission to write it
  // was taken (a write fault, a refresh). As an update: not inside a section, allowed in a bracket.
  absl::StatusOr<DirtyBitmap> CollectDirty(uint32_t id) ABSL_LOCKS_EXCLUDED(update_mutex_);

  // See mmu/translate.h.
  TranslatedPage Translate(Reader& reader, Gpa gpa, Access access) {
    return underfoot::Translate(memslots_, stage2_, reader, gpa, access);
  }

  Notifier& notifier() { return notifier_; }
  FaultHandler& faults() { return faults_; }
  RangeFaultHandler& range_faults() { return range_faults_; }
  FaultAroundHandler& faults_around() { return faults_around_; }
  Stage2& stage2() { return stage2_; }
  ReaderRegistry& readers() { return readers_; }
  PfnCacheIndex& caches() { return caches_; }
  const MemslotTable& memslots() const { return memslots_; }
  const InFlightRanges& in_flight() const { return in_flight_; }
  PageSource& page_source() { return source_; }

  MmuStats Stats() const;

 private:
  void RemoveTranslations(const Memslot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);
  DirtyBitmap TakeDirty(const Memslot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(update_mutex_);

  PageSource& source_;
  InFlightRanges in_flight_;
  ReaderRegistry readers_;
  MemslotTable memslots_;
  Stage2 stage2_;
  PfnCacheIndex caches_;
  Notifier notifier_;
  Stage2Subscriber stage2_subscriber_;
  FaultHandler faults_;
  RangeFaultHandler range_faults_;
  FaultAroundHandler faults_around_;

  // Guards: who publishes the next memslot set, and who collects. Order: outermost, with
  // Notifier::publish_mutex_ never both. Held across walks over a slot's leaves, the wait for its
  // readers and a grace period; never across a bracket.
  absl::Mutex update_mutex_;
  Counter updates_;
  Counter update_us_max_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_MMU_H_
