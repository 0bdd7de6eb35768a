#include "vmm/sources/kernel/task_names.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <utility>

namespace underfoot {
namespace {

constexpr int64_t kMemoryNs = 1'000'000'000;
constexpr size_t kMost = 4096;

}  // namespace

HostCause CauseOf(std::string_view name, bool ours) {
  if (ours) return HostCause::kThisProcess;
  constexpr std::array<std::pair<std::string_view, HostCause>, 4> kKernelThreads = {{
      {"ksmd", HostCause::kKsm},
      {"khugepaged", HostCause::kCollapse},
      {"kcompactd", HostCause::kCompaction},
      {"kswapd", HostCause::kSwapOut},
  }};
  for (const auto& [prefix, cause] : kKernelThreads) {
    if (name.starts_with(prefix)) return cause;
  }
  return name.empty() ? HostCause::kUnknown : HostCause::kOtherTask;
}

HostCause CauseOf(HostCause task, HvaRange range) {
  constexpr uint64_t kBlock = uint64_t{2} << 20;
  const bool block = range.size() == kBlock && range.begin.value % kBlock == 0;
  return block && !IsKernelThread(task) ? HostCause::kHugePage : task;
}

TaskNames::Task TaskNames::Read(int32_t tid) const {
  const std::string number = std::to_string(tid);
  std::string name;
  std::ifstream comm(proc_ + "/" + number + "/comm");
  std::getline(comm, name);
  Task task;
  std::copy_n(name.begin(), std::min(name.size(), task.name.size() - 1), task.name.begin());
  const bool ours = access((proc_ + "/self/task/" + number).c_str(), F_OK) == 0;
  task.cause = CauseOf(name, ours);
  return task;
}

TaskNames::Task TaskNames::Find(int32_t tid, int64_t now_ns) {
  if (known_.size() >= kMost) known_.clear();
  Known& known = known_[tid];
  if (known.read_ns == 0 || now_ns - known.read_ns > kMemoryNs) known = {Read(tid), now_ns};
  return known.task;
}

}  // namespace underfoot
