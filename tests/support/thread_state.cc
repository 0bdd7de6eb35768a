#include "tests/support/thread_state.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

namespace underfoot::testing {
namespace {

constexpr char kTasks[] = "/proc/self/task/";

// As in proc(5). A dot: the thread has ended.
char StateOf(const std::string& thread) {
  std::ifstream file(kTasks + thread + "/stat");
  std::string stat;
  std::getline(file, stat);
  const size_t name_end = stat.rfind(')');  // the name may have anything in it
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '.' : stat[name_end + 2];
}

}  // namespace

bool ThreadSleeps(pid_t thread) { return StateOf(std::to_string(thread)) == 'S'; }

bool OtherThreadsSleep() {
  const std::string self = std::to_string(gettid());
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(kTasks, error)) {
    const std::string thread = entry.path().filename();
    if (thread == self) continue;
    const char state = StateOf(thread);
    if (state == 'R' || state == 'D') return false;
  }
  return !error;
}

}  // namespace underfoot::testing
