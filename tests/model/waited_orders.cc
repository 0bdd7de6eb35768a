// The C++ orders by which a Begin learns that the readers of a bracket that did not wait have left.
// The scan of another Begin finds the reader outside of sections and records this in
// waited_through_. A Begin that reads the record does not scan itself, and its caller changes the
// page.

#include "relacy_main.h"

namespace {

const rl::memory_order kRecord = Order("RECORD", rl::mo_acq_rel, rl::mo_relaxed);
const rl::memory_order kRecordRead = Order("RECORD_READ", rl::mo_acquire, rl::mo_relaxed);

struct WaitedOrders : rl::test_suite<WaitedOrders, 3> {
  rl::atomic<int> slot;
  rl::atomic<int> through;
  rl::var<int> page;

  void before() {
    slot($) = 1;
    through($) = 0;
    page($) = 1;
  }

  void Read() {
    RL_ASSERT(page($) == 1);
    slot($).store(0, rl::mo_release);
  }

  void Scan() {
    int before = 0;
    if (slot($).load(rl::mo_seq_cst) != 0) return;
    through($).compare_exchange_strong(before, 1, kRecord, rl::mo_relaxed);
  }

  void Begin() {
    if (through($).load(kRecordRead) == 0) {
      rl::linear_backoff backoff;
      while (slot($).load(rl::mo_acquire) != 0) backoff.yield($);
    }
    page($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) Read();
    if (index == 1) Scan();
    if (index == 2) Begin();
  }
};

}  // namespace

int main() { return Explore<WaitedOrders>(); }
