// The C++ orders by which a reader takes its bias, beside a Begin that finds it announced and
// trusts that (bias.pml has the protocol, and all that rests on membarriers: relacy's system-wide
// fence shows too little, for it makes what any thread has seen seen by all).

#include "relacy_main.h"

namespace {

const rl::memory_order kTake = Order("TAKE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLook = Order("LOOK", rl::mo_seq_cst, rl::mo_acquire);

enum Bias { kAnnounced, kBiased };

struct BiasOrders : rl::test_suite<BiasOrders, 2> {
  rl::atomic<int> entry;  // 1: a leaf of the page
  rl::atomic<int> slot;
  rl::atomic<int> bias;
  bool uses;
  bool found;

  void before() {
    entry($) = 1;
    slot($) = 0;
    bias($) = kAnnounced;
    uses = found = false;
  }

  void Read() {
    int announced = kAnnounced;
    bias($).compare_exchange_strong(announced, kBiased, kTake, rl::mo_relaxed);
    slot($).store(1, rl::mo_release);
    if (bias($).load(rl::mo_relaxed) != kBiased) slot($).exchange(1, rl::mo_seq_cst);
    uses = entry($).load(rl::mo_seq_cst) == 1;
  }

  // A Begin that meets the bias makes a membarrier, after which it finds the reader.
  void Invalidate() {
    entry($).exchange(0, rl::mo_seq_cst);
    found = bias($).load(kLook) == kBiased || slot($).load(rl::mo_seq_cst) != 0;
  }

  void thread(unsigned index) {
    if (index == 0) Read();
    if (index == 1) Invalidate();
  }

  void after() { RL_ASSERT(!uses || found); }
};

}  // namespace

int main() { return Explore<BiasOrders>(); }
