#include "mmu/mmu.h"

#include <optional>
#include <utility>

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
      range_faults_(memslots_, stage2_, in_flight_, source, faults_) {
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
      {.id = config.id, .gfns = config.gfns, .hva = config.hva, .read_only = config.read_only});
  if (added.ok()) updates_.Add();
  return added;
}

absl::Status Mmu::DeleteMemslot(uint32_t id) {
  absl::MutexLock lock(&update_mutex_);
  UpdateTimer timer(update_us_max_);
  absl::StatusOr<Memslot> slot = memslots_.MarkDying(id);
  if (!slot.ok()) return std::move(slot).status();
  // A Begin that finds nothing of the slot any more must know that readers may still be there.
  std::optional<InFlightRanges::Scope> in_flight;
  if (!UNDERFOOT_MUTANT("slot-delete-unannounced")) in_flight.emplace(in_flight_, slot->hvas());
  UNDERFOOT_SYNC_POINT("slot-dying");
  // Look-ups do not find the slot now, so nothing new appears below; Begin still walks it.
  if (!UNDERFOOT_MUTANT("slot-delete-keeps-leaves")) {
    WalkDebts debts;
    stage2_.Unmap(slot->gfns, debts);
    stage2_.Finish(debts);
  }
  caches_.InvalidateGpaKeyed(slot->hvas());
  if (!UNDERFOOT_MUTANT("slot-delete-skips-readers")) readers_.WaitForReaders(slot->hvas());
  memslots_.Erase(id);
  updates_.Add();
  return absl::OkStatus();
}

MmuStats Mmu::Stats() const {
  MmuStats stats;
  stats.pfn_caches = caches_.Stats();
  stats.pfn_caches.hits = readers_.hits();
  stats.pfn_caches.misses = readers_.misses();
  stats.pfn_caches.reader_waits = readers_.waits();
  stats.stage2 = stage2_.Stats();
  stats.notifier = notifier_.Stats();
  {
    rcu::ReadScope rcu;
    stats.memslots.count = memslots_.Current().slots().size();
    stats.memslots.generation = memslots_.Current().generation();
  }
  stats.memslots.updates = updates_.Get();
  stats.memslots.update_wait_us_max = update_us_max_.Get();
  stats.rcu = stage2_.RetiredStats();
  return stats;
}

}  // namespace underfoot
