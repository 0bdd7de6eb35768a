#include "vmm/cli/status_line.h"

#include <array>

#include "absl/strings/str_format.h"
#include "vmm/cli/units.h"

namespace underfoot {
namespace {

std::string Rate(uint64_t now, uint64_t before, uint64_t us) {
  if (us == 0 || now < before) return "-";
  return FormatCount(
      static_cast<uint64_t>(static_cast<double>(now - before) * 1e6 / static_cast<double>(us)));
}

std::string HitRate(const PfnCacheStats& now, const PfnCacheStats& before) {
  const uint64_t hits = now.hits - before.hits;
  const uint64_t all = hits + now.misses - before.misses;
  if (all == 0) return "-";
  return absl::StrFormat("%.2f%%", 100.0 * static_cast<double>(hits) / static_cast<double>(all));
}

}  // namespace

std::string StatusLine(const Stats& now, const Stats& before, size_t columns) {
  const uint64_t us =
      now.vm.uptime_us > before.vm.uptime_us ? now.vm.uptime_us - before.vm.uptime_us : 0;
  // The most important fields come first, because a narrow terminal cuts off the end of the line.
  const std::array<std::string, 8> fields = {
      absl::StrFormat("%s %us", VmStateName(now.vm.state), now.vm.uptime_us / 1000000),
      absl::StrFormat("mismatches %u", now.guest.mismatches),
      absl::StrFormat("audit %u", now.audit.unexplained),
      absl::StrFormat("checked %s", FormatCount(now.guest.pages_checked)),
      Rate(TotalOperations(now.churn.operations), TotalOperations(before.churn.operations), us) +
          " churn/s",
      Rate(TotalFaults(now.uffd), TotalFaults(before.uffd), us) + " faults/s",
      "cache hits " + HitRate(now.pfn_caches, before.pfn_caches),
      "retired " + FormatCount(now.rcu.retired)};
  std::string line = fields.front();
  for (size_t i = 1; i < fields.size(); ++i) {
    const std::string more = " | " + fields[i];
    if (columns != 0 && line.size() + more.size() > columns) break;
    line += more;
  }
  if (columns != 0 && line.size() > columns) line.resize(columns);
  return line;
}

}  // namespace underfoot
