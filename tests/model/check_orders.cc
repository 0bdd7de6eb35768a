// The C++ orders of a pfn cache's state: a refresh writes the pointer and makes the state VALID, a
// reader looks, announces, looks again and follows the pointer, a Begin drops the state and waits
// for the reader. The pointer is atomic and relaxed, as in the code; the page is a plain variable,
// so the checker reports a use that the wait does not come after.

#include "relacy_main.h"

namespace {

const rl::memory_order kPublish = Order("PUBLISH", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kAnnounce = Order("ANNOUNCE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kCheck = Order("CHECK", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kDrop = Order("DROP", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kScan = Order("SCAN", rl::mo_seq_cst, rl::mo_acquire);

constexpr int kInvalid = 0;
constexpr int kPending = 1;
constexpr int kValid = 2;

struct CheckOrders : rl::test_suite<CheckOrders, 3> {
  rl::atomic<int> state;
  rl::atomic<int> data;
  rl::atomic<int> section;
  rl::var<int> page;

  void before() {
    state($) = kPending;
    data($) = 0;
    section($) = 0;
    page($) = 0;
  }

  void Refresh() {
    page($) = 1;
    data($).store(1, rl::mo_relaxed);
    int pending = kPending;
    state($).compare_exchange_strong(pending, kValid, kPublish, rl::mo_relaxed);
  }

  void Check() {
    if (state($).load(rl::mo_relaxed) != kValid) return;
    section($).exchange(1, kAnnounce);
    if (state($).load(kCheck) == kValid) {
      RL_ASSERT(data($).load(rl::mo_relaxed) == 1);
      RL_ASSERT(page($) == 1);
    }
    section($).store(0, rl::mo_release);
  }

  void Invalidate() {
    if (state($).exchange(kInvalid, kDrop) != kValid) return;
    const int seen = section($).load(kScan);
    rl::linear_backoff backoff;
    while (seen != 0 && section($).load(rl::mo_acquire) == seen) backoff.yield($);
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Refresh();
    if (index == 1) Check();
    if (index == 2) Invalidate();
  }
};

}  // namespace

int main() { return Explore<CheckOrders>(); }
