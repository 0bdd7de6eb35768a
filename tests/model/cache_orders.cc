// The C++ orders of a pfn cache's refresh against a Begin whose precheck takes no lock (cache.pml
// has the protocol): PfnCacheIndex counts the pages of listed caches. The refresh lists the cache
// and then looks for brackets; Begin announces its bracket and then looks whether a cache is
// listed. If both looked before the other's write, the cache would become valid with a page that
// the bracket takes away.

#include "relacy_main.h"

namespace {

const rl::memory_order kInsert = Order("INSERT", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kInFlight = Order("IN_FLIGHT", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kAnnounce = Order("ANNOUNCE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kPrecheck = Order("PRECHECK", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kEnd = Order("END", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kPublish = Order("PUBLISH", rl::mo_release, rl::mo_relaxed);

constexpr int kInvalid = 0;
constexpr int kPending = 1;
constexpr int kValid = 2;

struct CacheOrders : rl::test_suite<CacheOrders, 3> {
  rl::atomic<int> listed;
  rl::atomic<int> state;
  rl::atomic<int> flight;
  rl::atomic<int> host_page;
  rl::var<int> cached_page;

  void before() {
    listed($) = 0;
    state($) = kInvalid;
    flight($) = 0;
    host_page($) = 0;
    cached_page($) = 0;
  }

  void Refresh() {
    state($).store(kPending, rl::mo_relaxed);
    listed($).fetch_add(1, kInsert);
    if (flight($).load(kInFlight) != 0) return;
    cached_page($) = host_page($).load(rl::mo_relaxed);
    int pending = kPending;
    state($).compare_exchange_strong(pending, kValid, kPublish, rl::mo_relaxed);
  }

  void Bracket() {
    flight($).fetch_add(1, kAnnounce);
    if (listed($).load(kPrecheck) != 0) state($).exchange(kInvalid, rl::mo_acq_rel);
    host_page($).store(1, rl::mo_relaxed);
    flight($).fetch_sub(1, kEnd);
  }

  // Sees the cached page if it sees that the cache is valid.
  void Check() {
    if (state($).load(rl::mo_acquire) == kValid) (void)static_cast<int>(cached_page($));
  }

  void thread(unsigned index) {
    if (index == 0) Refresh();
    if (index == 1) Bracket();
    if (index == 2) Check();
  }

  void after() {
    if (state($).load(rl::mo_relaxed) != kValid) return;
    RL_ASSERT(cached_page($) == host_page($).load(rl::mo_relaxed));
  }
};

}  // namespace

int main() { return Explore<CacheOrders>(); }
