// The kernel's files that churn reads and writes. After: Documentation/admin-guide/mm/ksm.rst,
// sysctl/vm.rst, ABI/stable/sysfs-devices-node.

#ifndef UNDERFOOT_VMM_CHURN_HOST_KNOBS_H_
#define UNDERFOOT_VMM_CHURN_HOST_KNOBS_H_

namespace underfoot {

inline constexpr char kKsmRun[] = "/sys/kernel/mm/ksm/run";
inline constexpr char kKsmPagesToScan[] = "/sys/kernel/mm/ksm/pages_to_scan";
inline constexpr char kKsmSleepMs[] = "/sys/kernel/mm/ksm/sleep_millisecs";
inline constexpr char kKsmFullScans[] = "/sys/kernel/mm/ksm/full_scans";
inline constexpr char kCompactMemory[] = "/proc/sys/vm/compact_memory";
inline constexpr char kNodesWithMemory[] = "/sys/devices/system/node/has_memory";

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_HOST_KNOBS_H_
