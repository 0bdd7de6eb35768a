// The C++ orders of a list of chunks that grows: InFlightRanges and ReaderRegistry link a new chunk
// before they take its first word. Two Begins need the second chunk. One links its own; the other
// loses that race or finds the chunk linked. An installer that finds no chunk, or no bracket in it,
// must have claimed before both scans (I1). A thread that finds the chunk must find it initialized.

#include "relacy_main.h"

namespace {

const rl::memory_order kLink = Order("LINK", rl::mo_seq_cst, rl::mo_acq_rel);
const rl::memory_order kLinked = Order("LINKED", rl::mo_seq_cst, rl::mo_relaxed);
const rl::memory_order kNext = Order("NEXT", rl::mo_seq_cst, rl::mo_acquire);

struct ChunkOrders : rl::test_suite<ChunkOrders, 3> {
  rl::atomic<int> claim;
  rl::atomic<int> next;  // 0, or the Begin whose chunk it is
  rl::var<int> initialized[3];
  rl::atomic<int> words[3][2];
  bool installer_found;
  bool begin_found[3];

  void before() {
    claim($) = 0;
    next($) = 0;
    installer_found = begin_found[1] = begin_found[2] = false;
    for (rl::var<int>& chunk : initialized) chunk($) = 0;
    for (auto& chunk : words) {
      for (rl::atomic<int>& word : chunk) word($) = 0;
    }
  }

  void Install() {
    claim($).exchange(1, rl::mo_seq_cst);
    const int chunk = next($).load(kNext);
    if (chunk == 0) return;
    RL_ASSERT(initialized[chunk]($) == 1);
    installer_found = words[chunk][0]($).load(rl::mo_seq_cst) != 0 ||
                      words[chunk][1]($).load(rl::mo_seq_cst) != 0;
  }

  int NextChunk(int mine) {
    int chunk = next($).load(kLinked);
    if (chunk == 0) {
      initialized[mine]($) = 1;
      if (next($).compare_exchange_strong(chunk, mine, kLink)) return mine;
    }
    RL_ASSERT(initialized[chunk]($) == 1);
    return chunk;
  }

  void Begin(int me) {
    words[NextChunk(me)][me - 1]($).exchange(1, rl::mo_seq_cst);
    begin_found[me] = claim($).load(rl::mo_seq_cst) != 0;
  }

  void thread(unsigned index) {
    if (index == 0) {
      Install();
    } else {
      Begin(static_cast<int>(index));
    }
  }

  void after() { RL_ASSERT(installer_found || (begin_found[1] && begin_found[2])); }
};

}  // namespace

int main() { return Explore<ChunkOrders>(); }
