// The C++ orders of a reader's section against an unmap that detaches a whole table (detach.pml has
// the protocol). The unmap empties the entry of the parent and leaves the leaf as it is. So the
// reader's look at the parent's entry, and not its look at the leaf, decides whether it uses the
// page. The host's page is a plain variable: the checker reports any use that the wait of Begin does
// not come after.

#include "relacy_main.h"

namespace {

const rl::memory_order kAnnounce = Order("ANNOUNCE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kWalk = Order("WALK", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kLeave = Order("LEAVE", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kDetach = Order("DETACH", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kScan = Order("SCAN", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kSpin = Order("SPIN", rl::mo_acquire, rl::mo_relaxed);
const rl::memory_order kLink = Order("LINK", rl::mo_release, rl::mo_relaxed);

struct DetachOrders : rl::test_suite<DetachOrders, 3> {
  rl::atomic<int> parent;  // 1: the table is linked
  rl::var<int> table;      // plain: the table is filled in private, then linked
  rl::atomic<int> slot;    // 0, or the nonce of the section
  rl::var<int> page;

  void before() {
    parent($) = 0;
    table($) = 0;
    slot($) = 0;
    page($) = 0;
  }

  // A table that is filled in private, with the leaf of the host's page, is linked.
  void Install() {
    page($) = 1;
    table($) = 1;
    parent($).store(1, kLink);
  }

  void Read() {
    slot($).exchange(1, kAnnounce);
    if (parent($).load(kWalk) == 1) {
      RL_ASSERT(table($) == 1);
      RL_ASSERT(page($) == 1);
    }
    slot($).store(0, kLeave);
  }

  void Detach() {
    int linked = 1;
    if (!parent($).compare_exchange_strong(linked, 0, kDetach, rl::mo_relaxed)) return;
    const int seen = slot($).load(kScan);
    rl::linear_backoff backoff;
    while (seen != 0 && slot($).load(kSpin) == seen) backoff.yield($);
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Install();
    if (index == 1) Read();
    if (index == 2) Detach();
  }
};

}  // namespace

int main() { return Explore<DetachOrders>(); }
