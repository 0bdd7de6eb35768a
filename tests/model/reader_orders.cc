// The C++ orders of a reader's section against an invalidation (readers.pml has the protocol). The
// reader publishes its slot and then reads the entry; Begin clears the entry and then reads the
// slot. The host's page is a plain variable: the checker reports any use that the wait of Begin
// does not come after. -DBREAK_R1, R2, B5, B6 weaken one of the four; R5 and PUBLISH the two
// releases.

#include "relacy_main.h"

#ifdef BREAK_R1
#define ORDER_R1 rl::mo_acq_rel
#else
#define ORDER_R1 rl::mo_seq_cst
#endif
#ifdef BREAK_R2
#define ORDER_R2 rl::mo_acquire
#else
#define ORDER_R2 rl::mo_seq_cst
#endif
#ifdef BREAK_R5
#define ORDER_R5 rl::mo_relaxed
#else
#define ORDER_R5 rl::mo_release
#endif
#ifdef BREAK_B5
#define ORDER_B5 rl::mo_acq_rel
#else
#define ORDER_B5 rl::mo_seq_cst
#endif
#ifdef BREAK_B6
#define ORDER_B6 rl::mo_acquire
#else
#define ORDER_B6 rl::mo_seq_cst
#endif
#ifdef BREAK_PUBLISH
#define ORDER_PUBLISH rl::mo_relaxed
#else
#define ORDER_PUBLISH rl::mo_release
#endif

namespace {

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
    entry($).store(1, ORDER_PUBLISH);
  }

  void Read() {
    slot($).exchange(1, ORDER_R1);
    if (entry($).load(ORDER_R2) == 1) RL_ASSERT(page($) == 1);
    slot($).store(0, ORDER_R5);
  }

  void Invalidate() {
    int leaf = 1;
    if (!entry($).compare_exchange_strong(leaf, 0, ORDER_B5, rl::mo_relaxed)) return;
    const int seen = slot($).load(ORDER_B6);
    rl::linear_backoff backoff;
    while (seen != 0 && slot($).load(ORDER_B6) == seen) backoff.yield($);
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
