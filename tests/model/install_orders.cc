// The C++ orders of install against invalidate, one installer and one bracket (install.pml has the
// protocol). Store buffering: the installer claims and then looks for brackets, Begin announces its
// bracket and then looks for claims; if both looked before the other's write, a leaf of the old
// page would survive the bracket.

#include "relacy_main.h"

namespace {

const rl::memory_order kI1 = Order("I1", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kI2 = Order("I2", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kB1 = Order("B1", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kB2 = Order("B2", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kE2 = Order("E2", rl::mo_release, rl::mo_relaxed);

constexpr int kEmpty = 0;
constexpr int kClaim = 1;
constexpr int kLeaf = 16;  // + the page

struct InstallOrders : rl::test_suite<InstallOrders, 2> {
  rl::atomic<int> entry;
  rl::atomic<int> flight;
  rl::atomic<int> host_page;

  void before() {
    entry($) = kEmpty;
    flight($) = 0;
    host_page($) = 0;
  }

  void Install() {
    int seen = kEmpty;
    if (!entry($).compare_exchange_strong(seen, kClaim, kI1, rl::mo_relaxed)) return;
    if (flight($).load(kI2) != 0) {
      seen = kClaim;
      entry($).compare_exchange_strong(seen, kEmpty, rl::mo_release, rl::mo_relaxed);
      return;
    }
    const int page = host_page($).load(rl::mo_relaxed);
    seen = kClaim;
    entry($).compare_exchange_strong(seen, kLeaf + page, rl::mo_release, rl::mo_relaxed);
  }

  void Bracket() {
    flight($).fetch_add(1, kB1);
    int seen = entry($).load(kB2);
    while (seen != kEmpty && !entry($).compare_exchange_strong(seen, kEmpty, kB2, kB2)) {
    }
    host_page($).store(1, rl::mo_relaxed);
    flight($).fetch_sub(1, kE2);
  }

  void thread(unsigned index) {
    if (index == 0) {
      Install();
    } else {
      Bracket();
    }
  }

  void after() {
    const int last = entry($).load(rl::mo_relaxed);
    RL_ASSERT(last == kEmpty || last == kLeaf + host_page($).load(rl::mo_relaxed));
  }
};

}  // namespace

int main() { return Explore<InstallOrders>(); }
