// What `underfoot run` was asked to do, parsed and checked: RunMachine may rely on every range
// here.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_RUN_OPTIONS_H_
#define UNDERFOOT_VMM_RUN_OPTIONS_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "guest/abi.h"
#include "vmm/backing.h"
#include "vmm/churn_spec.h"

namespace underfoot {

inline constexpr uint64_t kMinMemoryBytes = uint64_t{32} << 20;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 40;
inline constexpr uint32_t kMaxVcpus = abi::kMaxVcpus;  // what the guest has room for

// The workloads of the built-in guest.
inline constexpr std::array<std::string_view, 5> kWorkloadNames = {"hello", "stamp", "smp",
                                                                   "shared", "mixed"};

// Whether the kernel's own notifier is listened to.
enum class KernelEvents : uint8_t {
  kAuto,  // where this host lets us
  kOn,    // or the run fails
  kOff,
};

struct RunOptions {
  std::string guest = "mixed";  // one of kWorkloadNames, or else the path of an ELF file
  uint64_t memory_bytes = uint64_t{256} << 20;  // whole pages, kMinMemoryBytes..kMaxMemoryBytes
  uint32_t vcpus = 2;                           // 1..kMaxVcpus
  Backing backing = Backing::kAnon;
  uint64_t fault_around = 64;  // the most pages that a fault brings in: 1..512; 1: itself
  bool removal_events = true;  // userfaultfd tells what others discard
  ChurnSpec churn;             // resolved for `backing`: every kind is possible
  uint64_t retired_cap_bytes = uint64_t{4} << 20;  // table pages that may wait to be freed
  KernelEvents kernel_events = KernelEvents::kAuto;
  // The kernel resolves write-protect faults itself and only notes them: Linux 6.7.
  bool async_write_protect = false;
  // Between two scans for touched pages; 0: by hand (Machine::working_set); absent: none are made.
  // On private memory it needs async_write_protect.
  std::optional<std::chrono::milliseconds> working_set_period = {};
  bool keep_visits = false;  // the guest notes what it touches, for who checks the working set
  uint64_t seed = 1;
  std::chrono::milliseconds duration = std::chrono::seconds(10);  // 0: until quit
  std::string control_path;  // of the socket; the default of `name` unless it was given
  std::string name;          // "vm-<pid>" unless it was given; letters, digits, '-', '_', '.'
  bool json = false;         // the summary as JSON on stdout, no status line
  // Leave to change the host as a whole, and to put it back at the end.
  bool allow_host_changes = false;
  std::string record_path = {};  // of a file for the churn as it happened; empty: none
  std::string replay_path = {};  // of one to repeat in place of the schedule; empty: none
  // Kinds of churn that the host does not offer: why not.
  std::map<ChurnKind, std::string> unavailable_churn = {};

  // What these options leave no room for.
  void Limit(ChurnLimits& limits) const {
    if (SamplesWrites()) limits.SpareWriteProtection();
    if (!removal_events) limits.SpareRemovalEvents();
  }
  ChurnLimits ChurnLimitsOfHost() const { return {backing, unavailable_churn}; }
  bool SamplesWrites() const { return working_set_period.has_value() && backing == Backing::kAnon; }
  // Whatever brings pages in ahead of the guest (fault-around, read-ahead) has to be off then: a
  // page that is there counts as touched.
  bool page_in_is_touch() const { return working_set_period.has_value(); }
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RUN_OPTIONS_H_
