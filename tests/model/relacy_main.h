// What the memory-order models share: the checker, and one way to report.
//
// A model is a rl::test_suite whose orders are macros; -DBREAK_NAME weakens the one called NAME.
// The search is full: every interleaving and, for each load, every store that it may legally see
// (at most one store back). Exit 0: holds; 1: caught; else the checker itself failed.

#ifndef UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_
#define UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_

#include <iostream>
#include <relacy/relacy.hpp>

template <class Suite>
int Explore() {
  rl::test_params parameters;
  parameters.search_type = rl::fair_full_search_scheduler_type;
  parameters.collect_history = false;
  parameters.output_history = false;
  const bool holds = rl::simulate<Suite>(parameters);
  return holds && parameters.test_result == rl::test_result_success ? 0 : 1;
}

#endif  // UNDERFOOT_TESTS_MODEL_RELACY_MAIN_H_
