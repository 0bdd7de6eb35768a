// The C++ orders of a place in the set of ranges in flight: End frees the word and then moves the
// epoch, on which waiters sleep; a search reads the epoch and then the word. A waiter that has read
// the old word with the new epoch would sleep through the End that it waits for (waits.pml has the
// protocol). A woken waiter looks the page up as the host left it.
//
// The word's own orders are weaker here than in the code, which needs them for the claim: relacy's
// one order of seq_cst steps is that of execution, and would hide what the epoch's orders do.

#include "relacy_main.h"

namespace {

const rl::memory_order kFree = Order("FREE", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kMove = Order("MOVE", rl::mo_acq_rel, rl::mo_relaxed);
const rl::memory_order kEpoch = Order("EPOCH", rl::mo_acquire, rl::mo_relaxed);
const rl::memory_order kWait = Order("WAIT", rl::mo_acquire, rl::mo_relaxed);

struct EpochOrders : rl::test_suite<EpochOrders, 2> {
  rl::atomic<int> word;
  rl::atomic<int> epoch;
  rl::var<int> page;

  void before() {
    word($) = 1;  // the bracket is open
    epoch($) = 0;
    page($) = 0;
  }

  void End() {
    page($) = 1;
    word($).exchange(0, kFree);
    epoch($).fetch_add(1, kMove);
  }

  void Install() {
    const int before = epoch($).load(kEpoch);
    if (word($).load(rl::mo_acquire) != 0) {
      RL_ASSERT(before == 0);
      rl::linear_backoff backoff;
      while (epoch($).load(kWait) == before) backoff.yield($);
    }
    RL_ASSERT(page($) == 1);
  }

  void thread(unsigned index) {
    if (index == 0) End();
    if (index == 1) Install();
  }
};

}  // namespace

int main() { return Explore<EpochOrders>(); }
