// What the memory-order models share: the checker, and one switch for all orders.
//
// A model is a rl::test_suite whose orders are constants made by Order(). The environment variable
// UNDERFOOT_WEAKEN names the one that is weakened in this run, so that one build of a model serves
// all its rows. The search is full: every interleaving and, for each load, every store that it may
// legally see (at most one store back). Exit 0: holds; 1: caught; 2: no such order.

#ifndef UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_
#define UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_

#include <cstdlib>
#include <iostream>
#include <relacy/relacy.hpp>
#include <string>

inline const std::string& OrderToWeaken() {
  static const std::string name =
      std::getenv("UNDERFOOT_WEAKEN") != nullptr ? std::getenv("UNDERFOOT_WEAKEN") : "";
  return name;
}

inline bool& Weakened() {
  static bool weakened = false;
  return weakened;
}

inline rl::memory_order Order(const char* name, rl::memory_order strong, rl::memory_order weak) {
  if (OrderToWeaken() != name) return strong;
  Weakened() = true;
  return weak;
}

template <class Suite>
int Explore() {
  if (!OrderToWeaken().empty() && !Weakened()) return 2;
  rl::test_params parameters;
  parameters.search_type = rl::fair_full_search_scheduler_type;
  parameters.collect_history = false;
  parameters.output_history = false;
  const bool holds = rl::simulate<Suite>(parameters);
  return holds && parameters.test_result == rl::test_result_success ? 0 : 1;
}

#endif  // UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_
