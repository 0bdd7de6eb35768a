// Finds the name of a thread by its number, and the likely cause of a change of guest RAM that this
// thread makes.
//
// Thread safety: one thread. A name is remembered for a second: numbers are used again.

#ifndef UNDERFOOT_VMM_SOURCES_KERNEL_TASK_NAMES_H_
#define UNDERFOOT_VMM_SOURCES_KERNEL_TASK_NAMES_H_

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "vmm/evidence/host_event.h"

namespace underfoot {

// By the kernel's names of its own threads. `ours`: a thread of this process.
HostCause CauseOf(std::string_view name, bool ours);
// A thread of the kernel's that does one thing only.
constexpr bool IsKernelThread(HostCause task) {
  return task != HostCause::kUnknown && task != HostCause::kThisProcess &&
         task != HostCause::kOtherTask;
}
// What the task did to `range`, that of the record. The name of a kernel thread says more than the
// size.
HostCause CauseOf(HostCause task, HvaRange range);

class TaskNames {
 public:
  explicit TaskNames(std::string proc = "/proc") : proc_(std::move(proc)) {}

  struct Task {
    std::array<char, 16> name{};  // empty: it has ended, or is in another PID namespace
    HostCause cause = HostCause::kUnknown;
  };
  Task Find(int32_t tid, int64_t now_ns);

 private:
  struct Known {
    Task task;
    int64_t read_ns = 0;
  };
  Task Read(int32_t tid) const;

  const std::string proc_;
  std::unordered_map<int32_t, Known> known_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_KERNEL_TASK_NAMES_H_
