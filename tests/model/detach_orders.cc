// The C++ orders of a reader's section against an unmap that detaches a whole table (detach.pml has
// the protocol). The unmap empties the entry of the parent and leaves the leaf as it is. So the
// reader's look at the parent's entry, and not its look at the leaf, decides whether it uses the
// page. The table is a plain variable too: it is filled in private and then linked.

#include "section_orders.h"

namespace {

struct PrivateTable {
  static const SectionOrders kOrders;
  rl::var<int> leaf;

  void Reset() { leaf($) = 0; }
  void Fill() { leaf($) = 1; }
  void Check() { RL_ASSERT(leaf($) == 1); }
};

const SectionOrders PrivateTable::kOrders = {
    .publish = Order("LINK", rl::mo_release, rl::mo_relaxed),
    .announce = Order("ANNOUNCE", rl::mo_seq_cst, rl::mo_acq_rel),
    .look = Order("WALK", rl::mo_seq_cst, rl::mo_acquire),
    .leave = Order("LEAVE", rl::mo_release, rl::mo_relaxed),
    .empty = Order("DETACH", rl::mo_seq_cst, rl::mo_acq_rel),
    .scan = Order("SCAN", rl::mo_seq_cst, rl::mo_acquire),
    .spin = Order("SPIN", rl::mo_acquire, rl::mo_relaxed),
};

}  // namespace

int main() { return Explore<Section<PrivateTable>>(); }
