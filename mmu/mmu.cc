#include "mmu/mmu.h"

#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"

namespace underfoot {
namespace {

// Records how long an update took.
class UpdateTimer {
 public:
  explicit UpdateTimer(Counter& longest_us) : longest_us_(longest_us) {}
  ~UpdateTimer() {
    const auto lasted = std::chrono::duration_cast<std::chrono::microseconds>(
        std::chrono::steady_clock::now() - start_);
    longest_us_.Max(static_cast<uint64_t>(lasted.count()));
  }
  UpdateTimer(const UpdateTimer&) = delete;
  UpdateTimer& operator=(const UpdateTimer&) = delete;

 private:
  Counter& longest_us_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

Mmu::Mmu(PageSource& source, MmuOptions options)
    : source_(source),
      page_in_tries_(options.page_in_tries),
      stage2_(options.retired_cap_bytes),
      notifier_(in_flight_, readers_, direct_requests_),
      install_parts_{memslots_, in_flight_, stage2_},
      faults_(install_parts_, source, options.page_in_tries),
      range_faults_(install_parts_, source, faults_),
      faults_around_(install_parts_, source, faults_) {
  notifier_.Register(caches_);  // Begin calls the caches before stage-2, as the kernel does
  notifier_.Register(*this);
}

Mmu::~Mmu() {
  notifier_.Unregister(*this);
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
  return DeleteLocked(id, {});
}

absl::StatusOr<DirtyBitmap> Mmu::DeleteMemslotCollecting(uint32_t id) {
  absl::MutexLock lock(&update_mutex_);
  const absl::StatusOr<Memslot> slot = LoggedSlot(id);
  if (!slot.ok()) return slot.status();
  std::vector<uint64_t> taken(DirtyBitmap::WordsFor(slot->gfns.size()));
  if (absl::Status deleted = DeleteLocked(id, taken); !deleted.ok()) return deleted;
  return DirtyBitmap(std::move(taken));
}

// `taken` receives the last pages of the log; empty: they are discarded.
absl::Status Mmu::DeleteLocked(uint32_t id, std::span<uint64_t> taken) {
  UpdateTimer timer(update_us_max_);
  const absl::StatusOr<Memslot> slot = memslots_.MarkDying(id);
  if (!slot.ok()) return slot.status();
  RemoveTranslations(*slot);
  // No translation is left and none appears, so no mark follows this collection.
  if (!taken.empty()) TakeDirty(*slot, taken);
  memslots_.Erase(id);
  MemslotTable::WaitForOldWalks();
  updates_.Add();
  return absl::OkStatus();
}

absl::Status Mmu::MoveMemslot(uint32_t id, Gfn first) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  absl::StatusOr<Memslot> slot = memslots_.Get(id);
  if (slot.ok() && slot->gfns.begin == first) return absl::OkStatus();
  if (absl::Status room = memslots_.CheckMove(id, first); !room.ok()) return room;
  slot = memslots_.MarkDying(id, first);
  RemoveTranslations(*slot);
  memslots_.FinishMove(id, first);
  updates_.Add();
  return absl::OkStatus();
}

// Removes the translations of a dying slot (P5.2 to P5.4). Look-ups no longer find the slot, so no
// new translation appears. A Begin still walks it.
void Mmu::RemoveTranslations(const Memslot& slot) {
  // A system call that began before the slot was dying is made again, by the slot that its gfns have
  // then.
  direct_requests_.MarkOverlapping(slot.hvas());
  // The range is in flight until the readers have left. Otherwise a Begin that finds no translation
  // of the slot would not look for its readers.
  const InFlightRanges::Scope in_flight(in_flight_, slot.hvas());
  UNDERFOOT_SYNC_POINT("slot-dying");
  stage2_.TearDown(slot.gfns, slot.dirty_sink());
  caches_.InvalidateGpaKeyed({slot.hvas(), InvalidationKind::kUnmap});
  readers_.WaitForReaders(slot.hvas());
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
  // The slot has a new identity now. An installer that looked the old flags up and claims from now
  // on is refused, because the identity differs. The walk below finds the claim of an installer
  // that claimed before.
  if (after.flags.read_only) direct_requests_.MarkOverlapping(after.hvas());
  const bool protects = after.flags.read_only && !before.flags.read_only;
  std::optional<InFlightRanges::Scope> in_flight;  // as in RemoveTranslations
  if (protects) {
    in_flight.emplace(in_flight_, after.hvas());
    MmuGather gather;
    stage2_.WriteProtect(after.gfns, gather);
    stage2_.Finish(gather);
  }
  if (protects || after.log != before.log) {
    caches_.InvalidateGpaKeyed({after.hvas(), InvalidationKind::kProtect});
    readers_.WaitForReaders(after.hvas());
  }
  if (after.log != nullptr && before.log == nullptr) {
    // A walk over the old set removes dirty leaves without logging them, so such walks must end
    // first.
    rcu::Synchronize();
    UNDERFOOT_SYNC_POINT("slot-log-on");
    // Pages that were written before the log started are not reported.
    TakeDirty(after, {});
  }
  if (before.log != nullptr && after.log == nullptr) rcu::DeferDelete(before.log);
  return absl::OkStatus();
}

absl::StatusOr<Memslot> Mmu::LoggedSlot(uint32_t id) {
  absl::StatusOr<Memslot> slot = memslots_.Get(id);
  if (slot.ok() && slot->log == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrFormat("memslot %u logs no writes: log_dirty is off", id));
  }
  return slot;
}

absl::StatusOr<DirtyBitmap> Mmu::CollectDirty(uint32_t id) {
  absl::MutexLock lock(&update_mutex_);
  const absl::StatusOr<Memslot> slot = LoggedSlot(id);
  if (!slot.ok()) return slot.status();
  std::vector<uint64_t> taken(
      DirtyBitmap::WordsFor(slot->gfns.size()));  // before the log is cleared
  TakeDirty(*slot, taken);
  return DirtyBitmap(std::move(taken));
}

// The lock keeps the slot and its log, and no collection runs meanwhile.
absl::Status Mmu::GiveBackDirty(uint32_t id, const DirtyBitmap& pages) {
  absl::MutexLock lock(&update_mutex_);
  const absl::StatusOr<Memslot> slot = LoggedSlot(id);
  if (!slot.ok()) return slot.status();
  if (pages.words().size() != DirtyBitmap::WordsFor(slot->gfns.size())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memslot %u has %u pages, and the bitmap that is given back has %u words",
                        id, slot->gfns.size(), pages.words().size()));
  }
  pages.ForEach([&](uint64_t page) { slot->log->Mark(page, 1); });
  return absl::OkStatus();
}

void Mmu::TakeDirty(const Memslot& slot, std::span<uint64_t> taken) {
  stage2_.CollectDirty(slot.gfns, slot.dirty_sink());
  UNDERFOOT_SYNC_POINT("collect-half-way");
  // The walk may have found that a leaf is gone whose mark is not in the log yet.
  if (slot.log->RemovalsUnderWay()) {
    UNDERFOOT_SYNC_POINT("collect-waits-for-removals");
    rcu::Synchronize();
  }
  slot.log->TakeInto(taken);
  // A reader whose mark was just taken may still be writing.
  readers_.WaitForReaders(slot.hvas());
}

bool Mmu::Invalidate(const Invalidation& invalidation) {
  // The notifier calls this inside an RCU read section.
  MmuGather gather;
  // The set is loaded after the range was put in flight. If this set does not have a slot yet, each
  // installer that uses the slot finds the range in flight (P5).
  const MemslotSet& set = memslots_.CurrentAfterAnnouncement();
  UNDERFOOT_SYNC_POINT("stage2-walk");
  set.ForEachOverlap(invalidation.range, [&](const Memslot& slot, HvaRange overlap) {
    const auto walk = [&] {
      if (invalidation.kind == InvalidationKind::kUnmap) {
        stage2_.Unmap(slot.GfnsOf(overlap), gather, slot.dirty_sink());
      } else {
        stage2_.WriteProtect(slot.GfnsOf(overlap), gather);
      }
    };
    for (walk(); gather.unsplit.has_value(); walk()) RemoveBlock(slot, gather);
  });
  UNDERFOOT_SYNC_POINT("stage2-walked");
  const bool held = gather.flush_due || !gather.retired.empty();
  if (!gather.retired.empty()) invalidation.follow_up = true;
  stage2_.FlushAndRetire(gather);
  return held;
}

// An invalidation cannot fail. If there is no memory to split a block, the whole block is unmapped,
// and faults bring its pages in again one by one. The readers of the block may use pages outside of
// the bracket's range, so the bracket does not wait for all of them. Two things make a later Begin
// that finds no translation of these pages look for readers: the range of the block is in flight
// until the block is gone, and after that `unwaited_` counts it.
void Mmu::RemoveBlock(const Memslot& slot, MmuGather& gather) {
  const GfnRange block = *std::exchange(gather.unsplit, std::nullopt);
  const InFlightRanges::Scope in_flight(in_flight_, slot.HvasOf(block));
  stage2_.Unmap(block, gather, slot.dirty_sink());
  readers_.NoteUnwaited();
}

bool Mmu::TestClearYoung(HvaRange range, bool clear) {
  bool young = false;
  memslots_.Current().ForEachOverlap(range, [&](const Memslot& slot, HvaRange overlap) {
    young = stage2_.TestClearYoung(slot.GfnsOf(overlap), clear) || young;
  });
  return young;
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
