// The transitions of the model: the next state and the expected outcome of each operation.
//
// An operation that needs the page source has several parts, as in the library. It calls the page
// source (Result::kAsks). The page source looks the page up (kLookUp) and returns (kAnswered). The
// outcome of kAnswered is the outcome of the operation, or a further call. Other operations may
// come between the parts.
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

// Checks a state against the contract. Returns nullptr if the state keeps it, and otherwise the
// breach: a translation that is stale, lies in a bracket, or grants more than the host. Real state
// that equals the model's state is exactly as correct as the model.
const char* BreachOf(const State& state);

// Whether an open bracket overlaps the cells.
bool InFlight(const State& state, Cells cells);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_MODEL_H_
