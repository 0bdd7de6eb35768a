#include "vmm/base/cpus.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "absl/strings/str_format.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  // It fails on a host with more CPUs than the set has room for.
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    }
  }
  if (cpus.empty()) cpus.push_back(CpuOfThisThread());
  return cpus;
}

void PinThisThread(std::span<const int> cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<size_t>(cpu), &set);
  static_cast<void>(sched_setaffinity(0, sizeof(set), &set));
}

int CpuOfThisThread() { return std::max(sched_getcpu(), 0); }

std::optional<int> CpuOfThread(int32_t tid) {
  // After the name, which is in parentheses and may contain any byte: the fields 3, 4, ...
  constexpr int kFirstField = 3;
  constexpr int kProcessor = 39;
  const UniqueFd fd(
      open(absl::StrFormat("/proc/self/task/%d/stat", tid).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 1024> buffer;
  const ssize_t size = fd.valid() ? read(fd.get(), buffer.data(), buffer.size()) : -1;
  if (size <= 0) return std::nullopt;
  std::string_view text(buffer.data(), static_cast<size_t>(size));
  text.remove_prefix(std::min(text.rfind(')') + 1, text.size()));
  for (int field = kFirstField; field <= kProcessor; ++field) {
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    text.remove_prefix(space + 1);
  }
  int cpu = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), cpu);
  return error == std::errc() ? std::optional(cpu) : std::nullopt;
}

}  // namespace underfoot
