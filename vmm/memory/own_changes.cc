#include "vmm/memory/own_changes.h"

#include <unistd.h>

#include <algorithm>

#include "mmu/mutant.h"
#include "mmu/ordering.h"
#include "vmm/memory/host_event.h"

namespace underfoot {
namespace {

// The kernel's stamp and ours are of the same clock, read in two ways.
constexpr int64_t kSkewNs = 500;
// How deep announcements nest: an outer one is older than the inner ones and ends after them.
constexpr uint64_t kNesting = 8;

std::atomic<uint64_t> next_id{1};

}  // namespace

// Written by its thread. An entry is whole when `count` has passed it, and until its place is used
// again.
// Pairs with: Made. Without it: a reader takes half of one change and half of another for a third.
struct OwnChanges::Ring {
  struct Entry {
    std::atomic<int64_t> begin_ns{0};
    std::atomic<int64_t> end_ns{0};  // 0: not yet
    std::atomic<uint64_t> begin{0};
    std::atomic<uint64_t> end{0};

    HvaRange range() const { return {{begin.load(kAcquire)}, {end.load(kAcquire)}}; }
  };
  std::array<Entry, kKept> entries;
  std::atomic<uint64_t> count{0};
};

OwnChanges::OwnChanges() : id_(next_id.fetch_add(1, kRelaxed)) {}
OwnChanges::~OwnChanges() = default;

OwnChanges::Ring& OwnChanges::RingOfThisThread() {
  thread_local uint64_t owner = 0;
  thread_local Ring* ring = nullptr;
  if (owner == id_) return *ring;
  absl::MutexLock lock(&mutex_);
  std::unique_ptr<Ring>& mine = rings_[gettid()];
  // A ring of an earlier thread of the same number is taken over.
  if (mine == nullptr) mine = std::make_unique<Ring>();
  owner = id_;
  ring = mine.get();
  return *ring;
}

void OwnChanges::Announce(HvaRange range) {
  Ring& ring = RingOfThisThread();
  const uint64_t n = ring.count.load(kRelaxed);  // relaxed: only this thread writes it
  Ring::Entry& entry = ring.entries[n % kKept];
  entry.end_ns.store(0, kRelease);
  entry.begin.store(range.begin.value, kRelease);
  entry.end.store(range.end.value, kRelease);
  entry.begin_ns.store(MonotonicNs(), kRelease);
  ring.count.store(n + 1, kRelease);
}

void OwnChanges::Done(HvaRange range) {
  Ring& ring = RingOfThisThread();
  const uint64_t count = ring.count.load(kRelaxed);  // relaxed: only this thread writes it
  const uint64_t oldest = count - std::min(count, kNesting);
  for (uint64_t n = count; n-- > oldest;) {
    Ring::Entry& entry = ring.entries[n % kKept];
    if (entry.end_ns.load(kRelaxed) != 0 || entry.range() != range) continue;
    entry.end_ns.store(MonotonicNs(), kRelease);
    return;
  }
}

bool OwnChanges::Made(int32_t tid, HvaRange range, int64_t time_ns, bool under_way) const {
  if (UNDERFOOT_MUTANT("kernel-recognizes-nothing")) return false;
  const Ring* ring = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = rings_.find(tid);
    if (found == rings_.end()) return false;
    ring = found->second.get();
  }
  const uint64_t count = ring->count.load(kAcquire);
  uint64_t began_before = 0;
  for (uint64_t n = count; n-- > 0 && count - n < kKept && began_before < kNesting;) {
    const Ring::Entry& entry = ring->entries[n % kKept];
    const int64_t begin_ns = entry.begin_ns.load(kAcquire);
    const int64_t end_ns = entry.end_ns.load(kAcquire);
    const HvaRange changed = entry.range();
    // Its place is being used again: all older ones are gone too.
    if (ring->count.load(kAcquire) - n >= kKept) return false;
    if (begin_ns > time_ns + kSkewNs) continue;
    ++began_before;
    const bool over = end_ns == 0 ? !under_way : end_ns < time_ns - kSkewNs;
    if (!over && changed.Contains(range)) return true;
  }
  return false;
}

}  // namespace underfoot
