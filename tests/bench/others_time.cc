#include "tests/bench/others_time.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string>

#include "tests/bench/cpus.h"

namespace underfoot::bench {
namespace {

// user, nice, system, idle, iowait, irq, softirq, steal; what a guest used is within user and nice.
constexpr size_t kIdle = 3;
constexpr size_t kIowait = 4;
constexpr size_t kFields = 8;

double SecondsOf(int who) {
  rusage used{};
  if (getrusage(who, &used) != 0) return 0;
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

bool IsOneOf(std::span<const int> cpus, const std::string& name) {
  return std::any_of(cpus.begin(), cpus.end(),
                     [&](int cpu) { return name == "cpu" + std::to_string(cpu); });
}

}  // namespace

std::optional<CpuSeconds> CpuSecondsIn(std::istream& proc_stat, std::span<const int> cpus,
                                       double tick_s) {
  CpuSeconds sum;
  size_t found = 0;
  for (std::string line; std::getline(proc_stat, line);) {
    std::istringstream words(line);
    std::string name;
    std::array<double, kFields> fields = {};
    words >> name;
    for (double& field : fields) words >> field;
    if (!words || !IsOneOf(cpus, name)) continue;
    const double all = std::accumulate(fields.begin(), fields.end(), 0.0);
    sum.all += all * tick_s;
    sum.busy += (all - fields[kIdle] - fields[kIowait]) * tick_s;
    ++found;
  }
  return found == cpus.size() ? std::optional(sum) : std::nullopt;
}

std::optional<CpuSeconds> CpuSeconds::Now() {
  std::ifstream stat("/proc/stat");
  std::optional<CpuSeconds> now =
      CpuSecondsIn(stat, AllowedCpus(), 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK)));
  if (now.has_value()) now->own = SecondsOf(RUSAGE_SELF) + SecondsOf(RUSAGE_CHILDREN);
  return now;
}

std::optional<double> OthersShare(const std::optional<CpuSeconds>& before,
                                  const std::optional<CpuSeconds>& after) {
  if (!before.has_value() || !after.has_value() || after->all <= before->all) return std::nullopt;
  const double others = (after->busy - before->busy) - (after->own - before->own);
  return std::clamp(others / (after->all - before->all), 0.0, 1.0);
}

}  // namespace underfoot::bench
