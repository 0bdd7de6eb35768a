#include "vmm/cli/status_line.h"

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
  std::string line = absl::StrFormat(
      "%s %us | %s churn/s | %s faults/s | cache hits %s | checked %s | mismatches %u | "
      "audit %u | retired %s",
      VmStateName(now.vm.state), now.vm.uptime_us / 1000000,
      Rate(TotalOperations(now.churn.operations), TotalOperations(before.churn.operations), us),
      Rate(TotalFaults(now.uffd), TotalFaults(before.uffd), us),
      HitRate(now.pfn_caches, before.pfn_caches), FormatCount(now.guest.pages_checked),
      now.guest.mismatches, now.audit.unexplained, FormatCount(now.rcu.retired));
  if (columns != 0 && line.size() > columns) line.resize(columns);
  return line;
}

}  // namespace underfoot
