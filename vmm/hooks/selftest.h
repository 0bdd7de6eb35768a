// Checks that the hooked names, as this program resolves them, lead to the hooks: calls each name
// as the program would, and checks whether the call arrives.
//
// Thread safety: any thread; not in a signal handler.

#ifndef UNDERFOOT_VMM_HOOKS_SELFTEST_H_
#define UNDERFOOT_VMM_HOOKS_SELFTEST_H_

#include <cstdint>

namespace underfoot::hooks {

// Returns a bit for each name whose call arrived, in the order of NameOf.
uint32_t SelfTest();
// Returns 0 once the calls of all names have arrived, or else ENOTSUP. Then WhatIsUnseen names
// those that did not arrive in the last SelfTest.
[[nodiscard]] int CheckNames();
const char* WhatIsUnseen();
// The name of a bit; nullptr behind the last one.
const char* NameOf(unsigned bit);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_SELFTEST_H_
