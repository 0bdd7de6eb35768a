#include "mmu/mutant.h"

#ifdef UNDERFOOT_MUTANTS

#include <cstdlib>

namespace underfoot {

bool MutantActive(std::string_view name) {
  const char* wanted = std::getenv("UNDERFOOT_MUTANT");
  return wanted != nullptr && name == wanted;
}

}  // namespace underfoot

#endif
