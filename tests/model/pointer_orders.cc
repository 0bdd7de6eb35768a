// The C++ orders of a published pointer (rcu::Pointer), here that of the memslot set. The object
// that it points to was written before. A thread that announces something (a section, a claim, a
// range) before its load either is found by the scan that the update makes after the publication,
// or loads the new set.

#include "relacy_main.h"

namespace {

const rl::memory_order kRelease = Order("RELEASE", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kPublish = Order("PUBLISH", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLoad = Order("LOAD", rl::mo_acquire, rl::mo_relaxed);
const rl::memory_order kAnnounced = Order("ANNOUNCED", rl::mo_seq_cst, rl::mo_acquire);

struct PointerOrders : rl::test_suite<PointerOrders, 3> {
  rl::atomic<int> current;  // the set: 0 has the slot, 1 has not
  rl::atomic<int> section;
  rl::var<int> set[2];
  rl::var<int> page;  // of the slot

  void before() {
    current($) = 0;
    section($) = 0;
    set[0]($) = 1;
    page($) = 1;
  }

  void Update() {
    set[1]($) = 1;
    current($).exchange(1, kRelease == rl::mo_seq_cst ? kPublish : kRelease);
    const int seen = section($).load(rl::mo_seq_cst);
    rl::linear_backoff backoff;
    while (seen != 0 && section($).load(rl::mo_acquire) == seen) backoff.yield($);
    page($) = 2;
  }

  void Translate() {
    section($).exchange(1, rl::mo_seq_cst);
    if (current($).load(kAnnounced) == 0) RL_ASSERT(page($) == 1);
    section($).store(0, rl::mo_release);
  }

  void LookUp() { RL_ASSERT(set[current($).load(kLoad)]($) == 1); }

  void thread(unsigned index) {
    if (index == 0) Update();
    if (index == 1) Translate();
    if (index == 2) LookUp();
  }
};

}  // namespace

int main() { return Explore<PointerOrders>(); }
