// The C++ orders of a system call on guest memory against Begin (requests.pml has the protocol). Store
// buffering: the worker announces the range and then looks for brackets, Begin puts its range in
// flight and then looks for announcements. If each looked before the other's write, the bytes of the
// call would be lost with the page. And a range that is no longer announced may get other memory: the
// last byte must be there before.

#include "relacy_main.h"

namespace {

const rl::memory_order kAnnounce = Order("ANNOUNCE", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLook = Order("LOOK", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kFlight = Order("FLIGHT", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kFind = Order("FIND", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kWithdraw = Order("WITHDRAW", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kLimit = Order("LIMIT", rl::mo_seq_cst, rl::mo_acquire);
const rl::memory_order kRaise = Order("RAISE", rl::mo_seq_cst, rl::mo_acq_rel);

constexpr int kNone = 0;
constexpr int kAnnounced = 1;
constexpr int kMarked = 3;

struct RequestOrders : rl::test_suite<RequestOrders, 2> {
  rl::atomic<int> limit;
  rl::atomic<int> word;
  rl::atomic<int> flight;
  rl::var<int> late;  // bytes of the call, then other memory at its address
  bool finished;      // the worker takes the transfer for done
  bool overlapped;    // the bracket came before the withdrawal

  void before() {
    limit($) = 0;
    word($) = kNone;
    flight($) = 0;
    late($) = 0;
    finished = false;
    overlapped = false;
  }

  void Worker() {
    int seen = 0;
    limit($).compare_exchange_strong(seen, 1, kRaise, rl::mo_relaxed);
    word($).exchange(kAnnounced, kAnnounce);
    if (flight($).load(kLook) != 0) {
      word($).exchange(kNone, kWithdraw);
      return;
    }
    late($) = 1;
    const int last = word($).exchange(kNone, kWithdraw);
    finished = last == kAnnounced;
  }

  void Bracket() {
    flight($).fetch_add(1, kFlight);
    if (limit($).load(kLimit) == 0) {
      overlapped = true;
      return;
    }
    int seen = word($).load(kFind);
    while (seen == kAnnounced && !word($).compare_exchange_strong(seen, kMarked, kFind, kFind)) {
    }
    if (seen != kNone) return;
    overlapped = true;
    // No request is announced over the range, and none begins: other memory comes here.
    if (late($) == 1) overlapped = false;  // the call was over before this bracket
    late($) = 2;
  }

  void thread(unsigned index) {
    if (index == 0) {
      Worker();
    } else {
      Bracket();
    }
  }

  // If the bracket has found no announcement and no bytes, the worker has found the bracket.
  void after() { RL_ASSERT(!(finished && overlapped)); }
};

}  // namespace

int main() { return Explore<RequestOrders>(); }
