#include "tests/bench/others_time.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <string>

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

}  // namespace

CpuSeconds CpuSecondsIn(std::istream& proc_stat, double tick_s) {
  std::string name;
  std::array<double, kFields> fields = {};
  proc_stat >> name;
  for (double& field : fields) proc_stat >> field;
  if (!proc_stat || name != "cpu") return {};
  const double all = std::accumulate(fields.begin(), fields.end(), 0.0);
  return {.all = all * tick_s, .busy = (all - fields[kIdle] - fields[kIowait]) * tick_s};
}

CpuSeconds CpuSeconds::Now() {
  std::ifstream stat("/proc/stat");
  CpuSeconds now = CpuSecondsIn(stat, 1.0 / static_cast<double>(sysconf(_SC_CLK_TCK)));
  now.own = SecondsOf(RUSAGE_SELF) + SecondsOf(RUSAGE_CHILDREN);
  return now;
}

double OthersShare(const CpuSeconds& before, const CpuSeconds& after) {
  const double all = after.all - before.all;
  if (all <= 0) return 0;
  return std::clamp(((after.busy - before.busy) - (after.own - before.own)) / all, 0.0, 1.0);
}

}  // namespace underfoot::bench
