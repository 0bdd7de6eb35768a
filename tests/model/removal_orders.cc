// The C++ orders of a dirty leaf on its way to the log. A collector that finds the leaf gone finds
// the removal counted, and waits for it, or its mark (I8). A collector that takes the mark then
// waits for the writers of the leaf, see reader_orders: the leaf is gone before the mark. The log's
// own orders are left out here, for relacy takes the order of execution for that of all
// sequentially consistent steps.

#include "relacy_main.h"

namespace {

const rl::memory_order kGone = Order("GONE", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kLook = Order("LOOK", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kOver = Order("OVER", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kUnderWay = Order("UNDER_WAY", rl::mo_acquire, rl::mo_relaxed);

struct RemovalOrders : rl::test_suite<RemovalOrders, 2> {
  rl::atomic<int> leaf;  // dirty, or 0
  rl::atomic<int> bit;
  rl::atomic<int> removals;
  rl::atomic<int> in_rcu;  // the removal's read section

  void before() {
    leaf($) = 1;
    bit($) = 0;
    removals($) = 0;
    in_rcu($) = 1;
  }

  void Remove() {
    removals($).fetch_add(1, rl::mo_relaxed);
    leaf($).exchange(0, kGone);
    bit($).fetch_or(1, rl::mo_relaxed);
    removals($).fetch_sub(1, kOver);
    in_rcu($).store(0, rl::mo_release);
  }

  void Collect() {
    rl::linear_backoff backoff;
    const bool found = leaf($).load(kLook) == 1;
    if (removals($).load(kUnderWay) != 0) {
      while (in_rcu($).load(rl::mo_acquire) != 0) backoff.yield($);
    }
    RL_ASSERT(found || bit($).load(rl::mo_relaxed) == 1);
  }

  void thread(unsigned index) {
    if (index == 0) Remove();
    if (index == 1) Collect();
  }
};

}  // namespace

int main() { return Explore<RemovalOrders>(); }
