// The C++ orders of an event page: two senders of one channel against the guest (events.pml has the
// protocol). Store buffering: a sender counts and then looks at the bit that the guest has taken, the
// guest writes that bit and then reads the count. If each looked before the other's write, the event
// would stay unnoticed. And a bit that is seen must bring the count with it.

#include "relacy_main.h"

namespace {

const rl::memory_order kCount = Order("COUNT", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kTurns = Order("TURNS", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kLook = Order("LOOK", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kTurn = Order("TURN", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kTake = Order("TAKE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kRead = Order("READ", rl::mo_seq_cst, rl::mo_acquire);

struct EventOrders : rl::test_suite<EventOrders, 3> {
  rl::atomic<int> count;
  rl::atomic<int> turns;
  rl::atomic<int> turned;
  rl::atomic<int> taken;
  int mine;  // the guest's
  int came;

  void before() {
    count($) = 0;
    turns($) = 0;
    turned($) = 0;
    taken($) = 0;
    mine = 0;
    came = 0;
  }

  void Sender() {
    count($).fetch_add(1, kCount);
    int seen = turns($).load(kTurns);
    if (taken($).load(kLook) != seen % 2) return;
    if (turns($).compare_exchange_strong(seen, seen + 1, kTurn, rl::mo_relaxed)) {
      turned($).fetch_xor(1, rl::mo_relaxed);  // TURN and the guest's bit order it
    }
  }

  void Look() {
    const int now = turned($).load(rl::mo_acquire);
    if (now == mine) return;
    mine = now;
    taken($).exchange(now, kTake);
    came = count($).load(kRead);
  }

  void thread(unsigned index) {
    if (index == 2) {
      Look();
      Look();
    } else {
      Sender();
    }
  }

  // If the guest has nothing to take, it has had all events.
  void after() {
    if (turned($).load(rl::mo_seq_cst) == mine) RL_ASSERT(came == 2);
  }
};

}  // namespace

int main() { return Explore<EventOrders>(); }
