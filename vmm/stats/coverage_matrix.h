// The coverage matrix, kinds of churn by sources: which source observed which operations on host
// memory, with which delay, and whether the sources that must observe them did.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_STATS_COVERAGE_MATRIX_H_
#define UNDERFOOT_VMM_STATS_COVERAGE_MATRIX_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "vmm/base/histogram.h"
#include "vmm/config/churn_kind.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {

// One flag for each source.
using SourceSet = std::array<bool, kEventSources>;
inline constexpr SourceSet kEverySource = {true, true, true};

struct CoverageCell {
  Duty duty = Duty::kNone;
  uint64_t owed = 0;  // operations that changed something which this source reports
  bool lost = false;  // the source lost records, so a missing event proves nothing
  uint64_t events = 0;
  LatencySnapshot lag_us;  // from the change until the source had acted on it
};

enum class CoverageResult : uint8_t {
  kIdle,          // no operation of this kind was done
  kSeen,          // observed by every source that must observe it
  kMissed,        // observed by no source, or not by one that must observe it
  kUnobservable,  // the sources that must observe it are off
  kNothing,       // nothing changed that a source must observe
  kTooFew,  // a source that must observe it reported none, but too few were done to prove a fault
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
  SourceSet sources{};                           // the sources that are on
  std::vector<CoverageRow> rows;                 // one for each kind, in the order of kChurnKinds
  std::array<uint64_t, kEventSources> others{};  // events that belong to no operation
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_COVERAGE_MATRIX_H_
