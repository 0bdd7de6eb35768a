// The coverage matrix: churn kind x source. Which source saw what was done to host memory, how
// late, and whether those that must see it did.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_COVERAGE_MATRIX_H_
#define UNDERFOOT_VMM_COVERAGE_MATRIX_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vmm/churn_kind.h"
#include "vmm/histogram.h"
#include "vmm/memory/host_event.h"

namespace underfoot {

struct CoverageCell {
  Duty duty = Duty::kNone;
  uint64_t events = 0;
  LatencySnapshot lag_us;  // from the change to the moment at which it had been acted upon
};

enum class CoverageResult : uint8_t {
  kIdle,          // nothing of this kind was done
  kSeen,          // by every source that must see it
  kMissed,        // by none, or not by one that must
  kUnobservable,  // the sources that must see it are off
  kNothing,       // there was nothing that anybody had to see
  kTooFew,        // none seen by a source that must, of so few that it proves nothing
};

constexpr std::string_view CoverageResultName(CoverageResult result) {
  constexpr std::array<std::string_view, 6> kNames = {"idle",         "seen",           "missed",
                                                      "unobservable", "nothing to see", "too few"};
  return kNames[static_cast<size_t>(result)];
}

struct CoverageRow {
  ChurnKind kind = ChurnKind::kDiscard;
  uint64_t operations = 0;
  std::array<CoverageCell, kEventSources> cells;
  CoverageResult result = CoverageResult::kIdle;
};

struct CoverageMatrix {
  std::array<bool, kEventSources> sources{};     // which are on
  std::vector<CoverageRow> rows;                 // one a kind, in the order of kChurnKinds
  std::array<uint64_t, kEventSources> others{};  // events that belong to no operation
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_COVERAGE_MATRIX_H_
