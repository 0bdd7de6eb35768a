// Negative controls: single-line breakages of the contract, one of which the environment variable
// UNDERFOOT_MUTANT switches on. Only builds with -DUNDERFOOT_MUTANTS=ON contain them; everywhere
// else UNDERFOOT_MUTANT(name) is the constant false. tests/mutants.tsv says which test must kill
// which.

#ifndef UNDERFOOT_MMU_MUTANT_H_
#define UNDERFOOT_MMU_MUTANT_H_

#ifdef UNDERFOOT_MUTANTS

#include <string_view>

namespace underfoot {
// Thread safety: any thread.
bool MutantActive(std::string_view name);
}  // namespace underfoot

#define UNDERFOOT_MUTANT(name)                                  \
  ([] {                                                         \
    static const bool active = ::underfoot::MutantActive(name); \
    return active;                                              \
  }())

#else

#define UNDERFOOT_MUTANT(name) false

#endif

#endif  // UNDERFOOT_MMU_MUTANT_H_
