#include "vmm/evidence/own_changes.h"

#include <unistd.h>

#include <algorithm>
#include <new>

#include "mmu/base/ordering.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {
namespace {

// The kernel's time stamps and ours come from the same clock, which is read in two different ways.
constexpr int64_t kSkewNs = 500;
// The greatest depth of nested announcements. An outer announcement is older than the inner ones
// and ends after them.
constexpr uint64_t kNesting = 8;

std::atomic<uint64_t> next_id{1};

}  // namespace

// Only the owning thread writes its ring. An entry is complete once `count` has passed it, and
// until its place is used again.
// Pairs with: Made. Without it: a reader combines the fields of two different changes into one that
// never happened.
struct OwnChanges::Ring {
  struct Entry {
    std::atomic<int64_t> begin_ns{0};
    std::atomic<int64_t> end_ns{0};  // 0: the change is not done yet
    std::atomic<uint64_t> begin{0};
    std::atomic<uint64_t> end{0};

    HvaRange range() const { return {{begin.load(kAcquire)}, {end.load(kAcquire)}}; }
  };
  std::array<Entry, kKept> entries;
  std::atomic<uint64_t> count{0};
};

OwnChanges::OwnChanges() : id_(next_id.fetch_add(1, kRelaxed)) {}
OwnChanges::~OwnChanges() = default;

OwnChanges::Ring* OwnChanges::RingOfThisThread() {
  thread_local uint64_t owner = 0;
  thread_local Ring* ring = nullptr;
  if (owner == id_) return ring;
  absl::MutexLock lock(&mutex_);
  try {
    std::unique_ptr<Ring>& mine = rings_[gettid()];
    // If an earlier thread had the same thread number, this thread takes over its ring.
    if (mine == nullptr) mine = std::make_unique<Ring>();
    owner = id_;
    ring = mine.get();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  return ring;
}

// Begin calls this, and Begin never fails. A change that is not announced is taken for a foreign
// one, which costs an invalidation.
void OwnChanges::Announce(HvaRange range) {
  Ring* const mine = RingOfThisThread();
  if (mine == nullptr) return;
  Ring& ring = *mine;
  const uint64_t n = ring.count.load(kRelaxed);  // relaxed: only this thread writes it
  Ring::Entry& entry = ring.entries[n % kKept];
  entry.end_ns.store(0, kRelease);
  entry.begin.store(range.begin.value, kRelease);
  entry.end.store(range.end.value, kRelease);
  entry.begin_ns.store(MonotonicNs(), kRelease);
  ring.count.store(n + 1, kRelease);
}

void OwnChanges::Done(HvaRange range) {
  Ring* const mine = RingOfThisThread();
  if (mine == nullptr) return;
  Ring& ring = *mine;
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
  const Ring* ring = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = rings_.find(tid);
    if (found == rings_.end() || found->second == nullptr) return false;
    ring = found->second.get();
  }
  const uint64_t count = ring->count.load(kAcquire);
  uint64_t began_before = 0;
  for (uint64_t n = count; n-- > 0 && count - n < kKept && began_before < kNesting;) {
    const Ring::Entry& entry = ring->entries[n % kKept];
    const int64_t begin_ns = entry.begin_ns.load(kAcquire);
    const int64_t end_ns = entry.end_ns.load(kAcquire);
    const HvaRange changed = entry.range();
    // The place of this entry is being used again, so all older entries are overwritten too.
    if (ring->count.load(kAcquire) - n >= kKept) return false;
    if (begin_ns > time_ns + kSkewNs) continue;
    ++began_before;
    const bool over = end_ns == 0 ? !under_way : end_ns < time_ns - kSkewNs;
    if (!over && changed.Contains(range)) return true;
  }
  return false;
}

}  // namespace underfoot
