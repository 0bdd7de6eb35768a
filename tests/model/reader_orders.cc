// The C++ orders of a reader's section against an invalidation (readers.pml has the protocol). The
// reader publishes its slot and then reads the entry; Begin clears the entry and then reads the
// slot. The host's page is a plain variable: the checker reports any use that the wait of Begin
// does not come after.

#include "relacy_main.h"

namespace {

const rl::memory_order kR1 = Order("R1", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kR2 = Order("R2", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kR5 = Order("R5", rl::mo_release, rl::mo_relaxed);
const rl::memory_order kB5 = Order("B5", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kB6 = Order("B6", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kSpin = Order("SPIN", rl::mo_acquire, rl::mo_relaxed);
const rl::memory_order kPublish = Order("PUBLISH", rl::mo_release, rl::mo_relaxed);

struct ReaderOrders : rl::test_suite<ReaderOrders, 3> {
  rl::atomic<int> entry;  // 1: a leaf of the page
  rl::atomic<int> slot;   // 0, or the nonce of the section
  rl::var<int> page;

  void before() {
    entry($) = 0;
    slot($) = 0;
    page($) = 0;
  }

  // The host has made the page; its leaf is published.
  void Install() {
    page($) = 1;
    entry($).store(1, kPublish);
  }

  void Read() {
    slot($).exchange(1, kR1);
    if (entry($).load(kR2) == 1) RL_ASSERT(page($) == 1);
    slot($).store(0, kR5);
  }

  void Invalidate() {
    int leaf = 1;
    if (!entry($).compare_exchange_strong(leaf, 0, kB5, rl::mo_relaxed)) return;
    const int seen = slot($).load(kB6);
    rl::linear_backoff backoff;
    while (seen != 0 && slot($).load(kSpin) == seen) backoff.yield($);
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Install();
    if (index == 1) Read();
    if (index == 2) Invalidate();
  }
};

}  // namespace

int main() { return Explore<ReaderOrders>(); }
