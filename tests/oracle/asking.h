// The rules of what asks the page source: a fault, of a page or of a block, and the refresh of a
// pfn cache. Each function
// goes as far as the next question or to the outcome.
//
// Thread safety: functions of their arguments.

#ifndef UNDERFOOT_TESTS_ORACLE_ASKING_H_
#define UNDERFOOT_TESTS_ORACLE_ASKING_H_

#include "tests/oracle/state.h"

namespace underfoot::oracle {

Outcome Fault(State& state, uint8_t view, uint8_t cell, Access access);
Outcome Refresh(State& state, uint8_t cache);
Outcome Activate(State& state, const Operation& operation);

// Only where it comes to a block: what is mapped page by page is mapped by faults.
Outcome MapBlock(State& state, const Operation& operation);

// The page source looks at the page that it was asked for.
Outcome LookUp(State& state);
// It has answered: the operation goes on.
Outcome Answered(State& state);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_ASKING_H_
