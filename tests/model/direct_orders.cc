// The C++ orders of a section by hva (DirectSection) against a Begin that found no translation. The
// section is counted, then looks for a bracket; Begin's range is in flight, then it looks at the
// count. If both looked before the other's write, the page would go under the section.

#include "relacy_main.h"

namespace {

const rl::memory_order kOpen = Order("OPEN", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kClose = Order("CLOSE", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kLook = Order("LOOK", rl::mo_seq_cst, rl::mo_acquire);

struct DirectOrders : rl::test_suite<DirectOrders, 2> {
  rl::atomic<int> flight;
  rl::atomic<int> direct;
  rl::atomic<int> slot;
  rl::var<int> page;

  void before() {
    flight($) = 0;
    direct($) = 0;
    slot($) = 0;
    page($) = 1;
  }

  // The slot's own orders are reader_orders.cc's part: here it is the count that Begin rests on.
  void Access() {
    direct($).fetch_add(1, kOpen);
    slot($).exchange(1, rl::mo_acq_rel);
    if (flight($).load(rl::mo_seq_cst) == 0) RL_ASSERT(page($) == 1);
    slot($).store(0, rl::mo_release);
    direct($).fetch_sub(1, kClose);
  }

  void Begin() {
    flight($).fetch_add(1, rl::mo_seq_cst);
    if (direct($).load(kLook) != 0) {
      rl::linear_backoff backoff;
      while (direct($).load(rl::mo_acquire) != 0) backoff.yield($);
    }
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Access();
    if (index == 1) Begin();
  }
};

}  // namespace

int main() { return Explore<DirectOrders>(); }
