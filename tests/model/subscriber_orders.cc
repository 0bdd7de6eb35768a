// The C++ orders of the pins on a list of subscribers (subscribers.pml has the protocol). Two walks
// have pinned it, each calls the subscriber and unpins; Unregister waits until no pin is left, and
// the subscriber may then end. A plain variable stands for the subscriber: the checker reports a
// walk that the end does not come after.

#include "relacy_main.h"

namespace {

const rl::memory_order kUnpin = Order("UNPIN", rl::mo_acq_rel, rl::mo_relaxed);
const rl::memory_order kWait = Order("WAIT", rl::mo_acquire, rl::mo_relaxed);

struct SubscriberOrders : rl::test_suite<SubscriberOrders, 3> {
  rl::atomic<int> pins;
  rl::var<int> subscriber;

  void before() {
    pins($) = 2;
    subscriber($) = 1;
  }

  void Walk() {
    RL_ASSERT(subscriber($) == 1);
    pins($).fetch_sub(1, kUnpin);
  }

  void Unregister() {
    rl::linear_backoff backoff;
    while (pins($).load(kWait) != 0) backoff.yield($);
    subscriber($) = 0;
  }

  void thread(unsigned index) {
    if (index == 0) {
      Unregister();
    } else {
      Walk();
    }
  }
};

}  // namespace

int main() { return Explore<SubscriberOrders>(); }
