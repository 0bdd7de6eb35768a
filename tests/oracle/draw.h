// Draws random operations of one island from the random numbers of one thread.
//
// Thread safety: one object for each thread.

#ifndef UNDERFOOT_TESTS_ORACLE_DRAW_H_
#define UNDERFOOT_TESTS_ORACLE_DRAW_H_

#include <cstdint>

#include "tests/oracle/state.h"
#include "tests/support/random.h"

namespace underfoot::oracle {

class Draw {
 public:
  Draw(uint64_t seed, uint64_t stream) : random_(seed, stream) {}

  // Uniform in [0, bound), except for a bias of bound / 2^32.
  unsigned Below(unsigned bound) {
    return static_cast<unsigned>((random_.Next() >> 32) * bound >> 32);
  }
  bool OneIn(unsigned n) { return Below(n) == 0; }

  // Returns an operation that may be possible in `state`.
  Operation Any(unsigned island, const State& state);

  uint8_t Page(unsigned island);
  Cells AnyCells(unsigned island);

 private:
  void Bracket(const State& state, Operation& op);
  void Recover(const State& state, Operation& op);
  void Update(const State& state, Operation& op);
  void Host(const State& state, Operation& op);
  void Activate(unsigned island, Operation& op);

  testing::Random random_;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_DRAW_H_
