#include "mmu/mmu.h"

#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/mutant.h"
#include "mmu/rcu.h"
#include "mmu/sync_point.h"

namespace underfoot {
namespace {

// Records how long an update took.
class UpdateTimer {
 public:
  explicit UpdateTimer(Counter& longest_us) : longest_us_(longest_us), start_(absl::Now()) {}
  ~UpdateTimer() {
    longest_us_.Max(static_cast<uint64_t>(absl::ToInt64Microseconds(absl::Now() - start_)));
  }
  UpdateTimer(const UpdateTimer&) = delete;
  UpdateTimer& operator=(const UpdateTimer&) = delete;

 private:
  Counter& longest_us_;
  const absl::Time start_;
};

}  // namespace

Mmu::Mmu(PageSource& source, MmuOptions options)
    : source_(source),
      stage2_(options.retired_cap_bytes),
      notifier_(in_flight_, readers_),
      stage2_subscriber_(memslots_, stage2_),
      faults_(memslots_, stage2_, in_flight_, source),
      range_faults_(memslots_, stage2_, in_flight_, source, faults_),
      faults_around_(memslots_, stage2_, in_flight_, source, faults_) {
  notifier_.Register(caches_);  // before stage-2, as in the kernel
  notifier_.Register(stage2_subscriber_);
}

Mmu::~Mmu() {
  notifier_.Unregister(stage2_subscriber_);
  notifier_.Unregister(caches_);
  rcu::Barrier();
}

absl::Status Mmu::CreateMemslot(const MemslotConfig& config) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  absl::Status added = memslots_.Add(
      {.id = config.id, .gfns = config.gfns, .hva = config.hva, .flags = config.flags});
  if (added.ok()) updates_.Add();
  return added;
}

absl::Status Mmu::DeleteMemslot(uint32_t id) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  const absl::StatusOr<Memslot> slot = memslots_.MarkDying(id);
  if (!slot.ok()) return slot.status();
  RemoveTranslations(*slot);
  memslots_.Erase(id);
  if (!UNDERFOOT_MUTANT("slot-gfns-are-reused-at-once")) MemslotTable::WaitForOldWalks();
  updates_.Add();
  return absl::OkStatus();
}

absl::Status Mmu::MoveMemslot(uint32_t id, Gfn first) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  absl::StatusOr<Memslot> slot = memslots_.Get(id);
  if (slot.ok() && slot->gfns.begin == first) return absl::OkStatus();
  if (absl::Status room = memslots_.CheckMove(id, first); !room.ok()) return room;
  const bool at_once = UNDERFOOT_MUTANT("slot-move-in-one-phase");
  if (at_once) {
    memslots_.Revive(id, first);
  } else {
    slot = memslots_.MarkDying(id);
  }
  RemoveTranslations(*slot);
  if (!at_once) memslots_.Revive(id, first);
  updates_.Add();
  return absl::OkStatus();
}

// Of a dying slot: look-ups do not find it now, so nothing new appears; Begin still walks it.
void Mmu::RemoveTranslations(const Memslot& slot) {
  // A Begin that finds nothing of the slot any more must know that readers may still be there.
  std::optional<InFlightRanges::Scope> in_flight;
  if (!UNDERFOOT_MUTANT("slot-delete-unannounced")) in_flight.emplace(in_flight_, slot.hvas());
  UNDERFOOT_SYNC_POINT("slot-dying");
  if (!UNDERFOOT_MUTANT("slot-delete-keeps-leaves")) {
    stage2_.TearDown(slot.gfns, slot.dirty_sink());
  }
  caches_.InvalidateGpaKeyed({slot.hvas(), InvalidationKind::kUnmap});
  if (!UNDERFOOT_MUTANT("slot-delete-skips-readers")) readers_.WaitForReaders(slot.hvas());
}

absl::Status Mmu::SetMemslotFlags(uint32_t id, MemslotFlags flags) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  const absl::StatusOr<MemslotChange> change = memslots_.SetFlags(id, flags);
  if (!change.ok()) return change.status();
  const Memslot& before = change->before;
  const Memslot& after = change->after;
  if (before.flags == after.flags) return absl::OkStatus();
  updates_.Add();
  UNDERFOOT_SYNC_POINT("slot-flags-published");
  // Who has looked the old flags up and claims from now on is refused for the slot's new identity;
  // who has claimed before is met here.
  const bool protects = after.flags.read_only && !before.flags.read_only;
  std::optional<InFlightRanges::Scope> in_flight;  // as when a slot goes
  if (protects && !UNDERFOOT_MUTANT("read-only-unannounced")) {
    in_flight.emplace(in_flight_, after.hvas());
  }
  if (protects && !UNDERFOOT_MUTANT("read-only-keeps-leaves")) {
    WalkDebts debts;
    stage2_.WriteProtect(after.gfns, debts);
    stage2_.Finish(debts);
  }
  if (protects || after.log != before.log) {
    if (!UNDERFOOT_MUTANT("flags-spare-caches")) {
      caches_.InvalidateGpaKeyed({after.hvas(), InvalidationKind::kProtect});
    }
    if (!UNDERFOOT_MUTANT("flags-skip-readers")) readers_.WaitForReaders(after.hvas());
  }
  if (after.log != nullptr && before.log == nullptr) {
    // A walk over the old set drops dirty leaves and logs nothing.
    if (!UNDERFOOT_MUTANT("log-starts-at-once")) rcu::Synchronize();
    UNDERFOOT_SYNC_POINT("slot-log-on");
    static_cast<void>(TakeDirty(after));  // what was written before is nobody's business
  }
  if (before.log != nullptr && after.log == nullptr) rcu::DeferDelete(before.log);
  return absl::OkStatus();
}

absl::StatusOr<DirtyBitmap> Mmu::CollectDirty(uint32_t id) {
  absl::MutexLock lock(&update_mutex_);
  const absl::StatusOr<Memslot> slot = memslots_.Get(id);
  if (!slot.ok()) return slot.status();
  if (slot->log == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrFormat("memslot %u logs no writes: log_dirty is off", id));
  }
  return TakeDirty(*slot);
}

DirtyBitmap Mmu::TakeDirty(const Memslot& slot) {
  stage2_.CollectDirty(slot.gfns, slot.dirty_sink());
  UNDERFOOT_SYNC_POINT("collect-half-way");
  DirtyBitmap dirty = slot.log->Take();
  // Who has marked what was taken may still be writing.
  if (!UNDERFOOT_MUTANT("collect-skips-readers")) readers_.WaitForReaders(slot.hvas());
  return dirty;
}

MmuStats Mmu::Stats() const {
  MmuStats stats;
  stats.pfn_caches = caches_.Stats();
  stats.pfn_caches.hits = readers_.hits();
  stats.pfn_caches.misses = readers_.misses();
  stats.pfn_caches.reader_waits = readers_.waits();
  stats.pfn_caches.reader_membarriers = readers_.membarriers();
  stats.stage2 = stage2_.Stats();
  stats.notifier = notifier_.Stats();
  {
    rcu::ReadScope rcu;
    stats.memslots.count = memslots_.Current().size();
    stats.memslots.generation = memslots_.Current().generation();
  }
  stats.memslots.updates = updates_.Get();
  stats.memslots.update_wait_us_max = update_us_max_.Get();
  stats.rcu = stage2_.RetiredStats();
  return stats;
}

}  // namespace underfoot
