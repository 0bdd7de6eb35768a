// The C++ orders of the set of ranges in flight: the limit at which a search ends. Two Begins take
// the two words, and one installer claims and searches the words. Each Begin raises the limit, or
// finds it raised by the other, before it takes its word. An installer that finds no bracket must
// have claimed before both scans, so that both Begins see its claim (I1).
//
// The load that finds the limit raised by another Begin is seq_cst in the code and is not weakened
// here. Relacy's total order is the order of execution, in which a thread that reads the result of
// a step always comes after that step.

#include "relacy_main.h"

namespace {

const rl::memory_order kRaise = Order("RAISE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLimit = Order("LIMIT", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kTake = Order("TAKE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kFind = Order("FIND", rl::mo_seq_cst, rl::mo_acquire);

constexpr int kWords = 2;

struct FlightOrders : rl::test_suite<FlightOrders, 3> {
  rl::atomic<int> claim;
  rl::atomic<int> limit;
  rl::atomic<int> words[kWords];
  bool installer_found;
  bool begin_found[2];

  void before() {
    claim($) = 0;
    limit($) = 0;
    installer_found = begin_found[0] = begin_found[1] = false;
    for (rl::atomic<int>& word : words) word($) = 0;
  }

  void Install() {
    claim($).exchange(1, rl::mo_seq_cst);
    const int end = limit($).load(kLimit);
    for (int i = 0; i < end && !installer_found; ++i) {
      installer_found = words[i]($).load(kFind) != 0;
    }
  }

  // A weak exchange in the code: a spurious failure only repeats it.
  void Begin(int me) {
    for (int i = 0;; ++i) {
      RL_ASSERT(i < kWords);
      int raised = limit($).load(rl::mo_seq_cst);
      while (raised <= i && !limit($).compare_exchange_strong(raised, i + 1, kRaise)) {
      }
      int free = 0;
      if (words[i]($).compare_exchange_strong(free, 1, kTake)) break;
    }
    begin_found[me] = claim($).load(rl::mo_seq_cst) != 0;
  }

  void thread(unsigned index) {
    if (index == 2) {
      Install();
    } else {
      Begin(static_cast<int>(index));
    }
  }

  void after() { RL_ASSERT(installer_found || (begin_found[0] && begin_found[1])); }
};

}  // namespace

int main() { return Explore<FlightOrders>(); }
