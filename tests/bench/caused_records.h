// Records of kvm:kvm_unmap_hva_range with the kernel's call chain, which names the exact cause of
// each invalidation. The product's source has no chains, since they make each record several times
// as long.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_CAUSED_RECORDS_H_
#define UNDERFOOT_TESTS_BENCH_CAUSED_RECORDS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/tracefs.h"
#include "vmm/sources/kernel/perf_ring.h"

namespace underfoot::bench {

// The functions of the running kernel, by address.
class KernelSymbols {
 public:
  // FailedPrecondition: the kernel hides its addresses from this user.
  static absl::StatusOr<KernelSymbols> Read(const std::string& path = "/proc/kallsyms");

  // Empty: no function of the kernel begins before it.
  std::string NameOf(uint64_t address) const;

 private:
  std::map<uint64_t, std::string> by_address_;
};

struct CausedRecord {
  HvaRange range;
  std::string cause;
};

// The cause that a chain of function names shows, from the innermost function outwards; "other" if
// no function of the table is among them.
std::string CauseOf(std::span<const std::string> chain);

class CausedRecords {
 public:
  // Of all processes, for ranges that overlap `range`. The error says what this host refuses.
  static absl::StatusOr<std::unique_ptr<CausedRecords>> Open(HvaRange range);

  // Those since the last call.
  std::vector<CausedRecord> Take();

 private:
  struct Watched {
    UniqueFd fd;
    PerfRing ring;  // unmapped before the event is closed
  };

  explicit CausedRecords(const KernelSymbols& symbols) : symbols_(symbols) {}
  absl::Status Watch(uint64_t tracepoint, HvaRange range);
  void Add(std::span<const std::byte> body, std::vector<CausedRecord>& records) const;

  const KernelSymbols& symbols_;
  TraceField start_;
  TraceField end_;
  std::vector<Watched> cpus_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_CAUSED_RECORDS_H_
