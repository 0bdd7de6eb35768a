// KVM's own tracepoints of the MMU notifier, by perf_event_open, filtered in the kernel to the hva
// range of guest RAM: kvm_unmap_hva_range, kvm_age_hva, kvm_test_age_hva.
//
// Each CPU has two rings: a DAMON thread of the host that ages guest pages all day must not push
// out the unmaps. Hvas are numbers of some process: a change at the same number in another VMM is
// told here too.
//
// Thread safety: one thread. To close the last event of a tracepoint takes the kernel about 50 ms.

#ifndef UNDERFOOT_VMM_MEMORY_KVM_TRACEPOINTS_H_
#define UNDERFOOT_VMM_MEMORY_KVM_TRACEPOINTS_H_

#include <linux/perf_event.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/memory/kernel_records.h"
#include "vmm/memory/perf_ring.h"
#include "vmm/memory/tracefs.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class KvmTracepoints final : public KernelRecordSource {
 public:
  struct Options {
    std::vector<std::string> tracefs = TracefsRoots();
    size_t unmap_pages = 64;  // of a ring; a power of two
    size_t age_pages = 8;
    // A CPU's ring that holds this much wakes its reader.
    uint32_t watermark_bytes = 16384;
  };

  // The error says what this host refuses, and the remedy.
  static absl::StatusOr<std::unique_ptr<KvmTracepoints>> Open(HvaRange range,
                                                              const Options& options);
  static absl::StatusOr<std::unique_ptr<KvmTracepoints>> Open(HvaRange range);

  void Read(KernelBatch& batch) override;
  const std::vector<int>& fds() const override { return fds_; }

 private:
  using Kind = KernelRecord::Kind;

  // One of the three, as this kernel describes it.
  struct Layout {
    uint64_t id = 0;
    TraceField begin;
    TraceField end;  // of a size of 0: one page from `begin`
  };
  struct Event {
    uint64_t id = 0;  // PERF_EVENT_IOC_ID
    Kind kind = Kind::kUnmap;
    UniqueFd fd;
  };

  KvmTracepoints() = default;
  absl::Status Describe(const Options& options);
  absl::Status OpenOn(int cpu, HvaRange range, const Options& options);
  absl::StatusOr<int> OpenEvent(Kind kind, int cpu, HvaRange range, uint32_t watermark);
  void Add(const PerfSample& sample, KernelBatch& batch) const;

  std::array<Layout, 3> layouts_;
  std::vector<Event> events_;
  // After the events, so that a ring is unmapped before its event is closed.
  std::vector<PerfRing> unmap_rings_;
  std::vector<PerfRing> age_rings_;
  std::vector<int> fds_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_KVM_TRACEPOINTS_H_
