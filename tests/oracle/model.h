// The transitions of the model: what an operation makes of a state, and how it must come out.
//
// An operation that needs the page source comes in parts, as it does in the library: it asks
// (Result::kAsks), the page source looks at the page (kLookUp) and answers (kAnswered), and the
// outcome of kAnswered is that of the operation, or another question. Between the parts other
// operations may come.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_TESTS_ORACLE_MODEL_H_
#define UNDERFOOT_TESTS_ORACLE_MODEL_H_

#include "tests/oracle/state.h"

namespace underfoot::oracle {

struct Step {
  State state;
  Outcome outcome;
};

Step Next(const State& state, const Operation& operation);

// What is wrong with a state by the contract: it has a translation that is stale, or in a bracket,
// or that grants more than the host. Nullptr: nothing. Real state that equals the model's is as
// right as the model is, and no more.
const char* BreachOf(const State& state);

// Whether a bracket that is open overlaps the cells.
bool InFlight(const State& state, Cells cells);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_MODEL_H_
