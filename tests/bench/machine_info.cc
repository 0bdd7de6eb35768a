#include "tests/bench/machine_info.h"

#include <stdlib.h>
#include <sys/utsname.h>

#include <fstream>

#include "tests/bench/cpus.h"
#include "vmm/kvm/kvm.h"

namespace underfoot::bench {
namespace {

std::string CpuModel() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace

MachineInfo MachineInfo::OfThis() {
  MachineInfo info;
  info.cpu = CpuModel();
  info.cpus = static_cast<unsigned>(AllowedCpus().size());
  utsname names{};
  if (uname(&names) == 0) info.kernel = names.release;
  info.kvm = KvmVendor();
#ifdef __clang__
  info.compiler = "clang " __clang_version__;
#else
  info.compiler = "g++ " __VERSION__;
#endif
  static_cast<void>(getloadavg(&info.load, 1));
  return info;
}

}  // namespace underfoot::bench
