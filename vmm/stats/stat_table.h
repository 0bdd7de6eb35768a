// The statistics as a table: one row for each field of Stats, with its group, name, kind, unit and
// help.
//
// The JSON of GET /v1/stats, the Prometheus text of GET /metrics, the views of `underfoot stats`
// and docs/statistics.md are all made from these rows. A new counter needs its member (stats.h),
// its row here, and the code that counts.
//
// Thread safety: constants and pure functions.

#ifndef UNDERFOOT_VMM_STATS_STAT_TABLE_H_
#define UNDERFOOT_VMM_STATS_STAT_TABLE_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "vmm/stats/stats.h"

namespace underfoot {

enum class StatKind : uint8_t {
  kCounter,  // a total since the start: it never decreases
  kGauge,    // a current value
  kFact,     // a property of the machine, not of its activity: it has no metric of its own
};

enum class StatUnit : uint8_t { kNumber, kBytes, kMicroseconds };

// A number for each of a fixed list of names, e.g. churn operations by kind.
struct StatByName {
  std::string_view label;  // what the names denote, e.g. "kind"
  std::vector<std::pair<std::string_view, uint64_t>> values;
};

// Every kind of churn, also those of which no operation was done.
StatByName OperationsByKind(const ChurnCounts& operations);

// One name of a fixed list: a state.
struct StatChoice {
  std::string_view chosen;
  std::vector<std::string_view> all;
};

using StatValue =
    std::variant<uint64_t, bool, std::string_view, const LatencySnapshot*, StatByName, StatChoice>;

struct StatRow {
  std::string_view group;
  std::string_view field;
  StatKind kind;
  StatUnit unit;
  std::string_view help;
  // The value refers to `stats`, which must live as long.
  StatValue (*read)(const Stats& stats);
};

// In the order of the structs. The rows of a group are adjacent. The names never change.
std::span<const StatRow> StatTable();

// Null if this program does not know the field: the other program may be of another version.
const StatRow* FindStat(std::string_view group, std::string_view field);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_STATS_STAT_TABLE_H_
