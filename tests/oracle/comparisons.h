// Counts what was compared. An oracle that compared nothing proves nothing, so each count must be
// above 0.
//
// Thread safety: one object for each thread.

#ifndef UNDERFOOT_TESTS_ORACLE_COMPARISONS_H_
#define UNDERFOOT_TESTS_ORACLE_COMPARISONS_H_

#include <array>
#include <cstdint>
#include <string>

#include "tests/oracle/state.h"

namespace underfoot::oracle {

struct Comparisons {
  // The outcomes, by kind of operation and result. kWouldWait and kForbidden count operations that
  // were drawn and not made.
  std::array<std::array<uint64_t, kResults>, kKinds> outcomes{};
  // The operations, by kind, for which memory ran out at some step.
  std::array<uint64_t, kKinds> ran_out{};
  uint64_t entries = 0;        // stage-2 entries, bit by bit
  uint64_t caches = 0;         // each with its key, place, validity and frame
  uint64_t in_flight = 0;      // is a bracket over this page?
  uint64_t contents = 0;       // words of host pages
  uint64_t sections = 0;       // checks that an open section still sees its page
  uint64_t freezes = 0;        // pages without a write while a bracket was over them
  uint64_t waited = 0;         // reader counts that must be 0 after a wait
  uint64_t subscriber = 0;     // calls of the test's own subscriber
  uint64_t interposed = 0;     // operations made while another was at the page source
  uint64_t waits = 0;          // sections left before blocking on an island's mutex
  uint64_t registrations = 0;  // of readers, each with a unique tag
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
