// The C++ orders of the dirty log. A writer in its section finds the bit of an earlier write and
// does not set it again; a collector takes the bit, waits for the readers that it finds, and copies
// the page. A write must be in the copy, or be reported next time (I8).

#include "relacy_main.h"

namespace {

const rl::memory_order kFound = Order("FOUND", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kTake = Order("TAKE", rl::mo_seq_cst, rl::mo_acq_rel);

struct DirtyOrders : rl::test_suite<DirtyOrders, 2> {
  rl::atomic<int> bit;
  rl::atomic<int> slot;
  rl::atomic<int> page;
  int copy;

  void before() {
    bit($) = 1;
    slot($) = 0;
    page($) = 1;
    copy = 0;
  }

  void Write() {
    slot($).exchange(1, rl::mo_seq_cst);
    page($).store(2, rl::mo_relaxed);
    if (bit($).load(kFound) == 0) bit($).fetch_or(1, rl::mo_seq_cst);
    slot($).store(0, rl::mo_release);
  }

  void Collect() {
    bit($).exchange(0, kTake);
    const int seen = slot($).load(rl::mo_seq_cst);
    rl::linear_backoff backoff;
    while (seen != 0 && slot($).load(rl::mo_acquire) == seen) backoff.yield($);
    copy = page($).load(rl::mo_relaxed);
  }

  void thread(unsigned index) {
    if (index == 0) Write();
    if (index == 1) Collect();
  }

  void after() { RL_ASSERT(copy == 2 || bit($).load(rl::mo_relaxed) == 1); }
};

}  // namespace

int main() { return Explore<DirtyOrders>(); }
