// The rules of the operations that call the page source: the fault of a page or of a block, and the
// refresh of a pfn cache. Each function goes on to the next call of the page source or to the
// outcome.
//
// Thread safety: functions of their arguments.

#ifndef UNDERFOOT_TESTS_ORACLE_PAGE_IN_RULES_H_
#define UNDERFOOT_TESTS_ORACLE_PAGE_IN_RULES_H_

#include "tests/oracle/state.h"

namespace underfoot::oracle {

Outcome Fault(State& state, uint8_t view, uint8_t cell, Access access);
Outcome Refresh(State& state, uint8_t cache);
Outcome Activate(State& state, const Operation& operation);

// Used only if the result may be a block. Pages that are mapped one by one follow the rules of
// faults.
Outcome MapBlock(State& state, const Operation& operation);
Outcome FaultBlock(State& state, const Operation& operation);

// The page source looks up the page for which it was called.
Outcome LookUp(State& state);
// The page source has returned, and the operation continues.
Outcome Answered(State& state);

// The operation threw std::bad_alloc, either before its first effect or when it made the claim of
// its last call.
void RunOut(State& state, const Operation& operation);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_PAGE_IN_RULES_H_
