// The switch of the negative controls. generate.py includes this header in each file of mmu/ and
// vmm/ to which it adds a mutant. UNDERFOOT_MUTANT("name") is true if the environment variable
// UNDERFOOT_MUTANT had the value "name" when the expression was evaluated for the first time. Only
// builds with -DUNDERFOOT_MUTANTS=ON contain mutants.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_MUTANTS_MUTANT_H_
#define UNDERFOOT_TESTS_MUTANTS_MUTANT_H_

#include <cstdlib>
#include <string_view>

namespace underfoot {

inline bool MutantActive(std::string_view name) {
  const char* wanted = std::getenv("UNDERFOOT_MUTANT");
  return wanted != nullptr && name == wanted;
}

}  // namespace underfoot

#define UNDERFOOT_MUTANT(name)                                  \
  ([] {                                                         \
    static const bool active = ::underfoot::MutantActive(name); \
    return active;                                              \
  }())

#endif  // UNDERFOOT_TESTS_MUTANTS_MUTANT_H_
