// The C++ orders of a reader's section against an invalidation (readers.pml has the protocol). The
// link is the entry itself, with a leaf of the page.

#include "section_orders.h"

namespace {

struct NoTable {
  static const SectionOrders kOrders;
  void Reset() {}
  void Fill() {}
  void Check() {}
};

const SectionOrders NoTable::kOrders = {
    .publish = Order("PUBLISH", rl::mo_release, rl::mo_relaxed),
    .announce = Order("R1", rl::mo_seq_cst, rl::mo_acq_rel),
    .look = Order("R2", rl::mo_seq_cst, rl::mo_acquire),
    .leave = Order("R5", rl::mo_release, rl::mo_relaxed),
    .empty = Order("B5", rl::mo_seq_cst, rl::mo_acq_rel),
    .scan = Order("B6", rl::mo_seq_cst, rl::mo_acquire),
    .spin = Order("SPIN", rl::mo_acquire, rl::mo_relaxed),
};

}  // namespace

int main() { return Explore<Section<NoTable>>(); }
