// The statistics as Prometheus text, for GET /metrics.
//
// Totals are counters named underfoot_<group>_<field>_total, values that are "now" are gauges, and
// times are in seconds. The number of things that a group lists (its field `count`) is the gauge
// underfoot_<group>, because the suffix _count belongs to histograms. Churn operations have the
// label `kind`.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CONTROL_METRICS_H_
#define UNDERFOOT_VMM_CONTROL_METRICS_H_

#include <string>
#include <string_view>

#include "vmm/stats/stats.h"

namespace underfoot {

inline constexpr std::string_view kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

std::string PrometheusText(const Stats& stats);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_METRICS_H_
