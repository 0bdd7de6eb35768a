// The C++ orders of a reader's line that gets a new owner. What the old owner leaves behind (the
// nonce, the counters) is plain memory, and the next owner continues with it. The nonce must never
// go back: a Begin distinguishes two sections of one slot by it.

#include "relacy_main.h"

namespace {

const rl::memory_order kOwn = Order("OWN", rl::mo_acq_rel, rl::mo_relaxed);
const rl::memory_order kDisown = Order("DISOWN", rl::mo_release, rl::mo_relaxed);

struct LineOrders : rl::test_suite<LineOrders, 3> {
  rl::atomic<int> owned;
  rl::var<int> nonce;
  int owners;

  void before() {
    owned($) = 0;
    nonce($) = 0;
    owners = 0;
  }

  void thread(unsigned) {
    int owner = 0;
    if (!owned($).compare_exchange_strong(owner, 1, kOwn, rl::mo_relaxed)) return;
    nonce($) = nonce($) + 1;
    ++owners;
    owned($).store(0, kDisown);
  }

  void after() { RL_ASSERT(nonce($) == owners); }
};

}  // namespace

int main() { return Explore<LineOrders>(); }
