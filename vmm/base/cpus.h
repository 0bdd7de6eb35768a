// The CPUs that this process may use, and which thread runs on which.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_BASE_CPUS_H_
#define UNDERFOOT_VMM_BASE_CPUS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace underfoot {

// The CPUs that the calling thread may run on, in ascending order: never empty.
std::vector<int> AllowedCpus();

// From here on the calling thread runs only on `cpus`. If the host refuses (a cpuset that has
// changed), the thread stays where it is: that costs time and no correctness.
void PinThisThread(std::span<const int> cpus);

int CpuOfThisThread();
// The CPU on which a thread of this process ran last. nullopt: there is no such thread. Slow,
// because the kernel formats a file.
std::optional<int> CpuOfThread(int32_t tid);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_CPUS_H_
