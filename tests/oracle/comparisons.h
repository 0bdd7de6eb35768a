// How much was compared, and of what: an oracle that saw nothing proves nothing.
//
// Thread safety: one for each thread.

#ifndef UNDERFOOT_TESTS_ORACLE_COMPARISONS_H_
#define UNDERFOOT_TESTS_ORACLE_COMPARISONS_H_

#include <array>
#include <cstdint>
#include <string>

#include "tests/oracle/state.h"

namespace underfoot::oracle {

struct Comparisons {
  // Outcomes, by kind and result; kWouldWait and kForbidden are of operations that were not made.
  std::array<std::array<uint64_t, kResults>, kKinds> outcomes{};
  uint64_t entries = 0;     // stage-2 entries, bit by bit
  uint64_t caches = 0;      // each with key, place, validity and frame
  uint64_t in_flight = 0;   // is a bracket over this page?
  uint64_t contents = 0;    // words of host pages
  uint64_t sections = 0;    // looks at an open section: its translation stays what it was
  uint64_t freezes = 0;     // pages that nobody wrote to while a bracket was over them
  uint64_t waited = 0;      // counts of readers that must be 0 after a wait for them
  uint64_t witness = 0;     // what the test's own subscriber was told and asked
  uint64_t interposed = 0;  // operations made while another was at the page source
  uint64_t waits = 0;  // sections that were left because the island was in use: a Begin may wait
  uint64_t registrations = 0;  // of readers, each with a tag that nobody else has
  uint64_t censuses = 0;       // the whole table, every count and statistic

  uint64_t MadeOf(Kind kind) const;
  uint64_t Of(Kind kind, Result result) const {
    return outcomes[static_cast<unsigned>(kind)][static_cast<unsigned>(result)];
  }
  uint64_t Operations() const;
  uint64_t Total() const;
  Comparisons& operator+=(const Comparisons& other);
  std::string Text() const;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_COMPARISONS_H_
