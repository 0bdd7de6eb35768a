// The C++ orders of the registry of readers: the limit at which a scan ends. Two readers register,
// announce a section and look at the translation. Begin clears the translation and scans the lines
// up to the limit. It must find a reader that still found the translation (I1).
//
// The load that finds the limit raised by another reader is seq_cst in the code and is not weakened
// here. Relacy's total order is the order of execution, in which a thread that reads the result of
// a step always comes after that step.

#include "relacy_main.h"

namespace {

const rl::memory_order kRaise = Order("RAISE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLimit = Order("LIMIT", rl::mo_seq_cst, rl::mo_acquire);

constexpr int kLines = 2;

struct RegistryOrders : rl::test_suite<RegistryOrders, 3> {
  rl::atomic<int> cleared;
  rl::atomic<int> limit;
  rl::atomic<int> owned[kLines];
  rl::atomic<int> slots[kLines];
  bool uses[kLines];  // the reader in this line found the translation
  bool found[kLines];

  void before() {
    cleared($) = 0;
    limit($) = 0;
    for (int i = 0; i < kLines; ++i) {
      owned[i]($) = 0;
      slots[i]($) = 0;
      uses[i] = found[i] = false;
    }
  }

  // A weak exchange in the code: a spurious failure only repeats it.
  int Acquire() {
    for (int i = 0;; ++i) {
      RL_ASSERT(i < kLines);
      int owner = 0;
      if (!owned[i]($).compare_exchange_strong(owner, 1, rl::mo_acq_rel)) continue;
      int raised = limit($).load(rl::mo_seq_cst);
      while (raised <= i && !limit($).compare_exchange_strong(raised, i + 1, kRaise)) {
      }
      return i;
    }
  }

  void Read() {
    const int line = Acquire();
    slots[line]($).exchange(1, rl::mo_seq_cst);
    uses[line] = cleared($).load(rl::mo_seq_cst) == 0;
  }

  void Begin() {
    cleared($).exchange(1, rl::mo_seq_cst);
    const int end = limit($).load(kLimit);
    for (int i = 0; i < end; ++i) found[i] = slots[i]($).load(rl::mo_seq_cst) != 0;
  }

  void thread(unsigned index) {
    if (index == 2) {
      Begin();
    } else {
      Read();
    }
  }

  void after() {
    for (int i = 0; i < kLines; ++i) RL_ASSERT(!uses[i] || found[i]);
  }
};

}  // namespace

int main() { return Explore<RegistryOrders>(); }
