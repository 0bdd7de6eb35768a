// KVM's own tracepoints of the MMU notifier, by perf_event_open, filtered in the kernel to the hva
// range of guest RAM: kvm_unmap_hva_range, kvm_age_hva, kvm_test_age_hva.
//
// Each CPU has two rings: a DAMON thread of the host that ages guest pages all day must not push
// out the unmaps. Hvas are numbers of some process: a change at the same number in another VMM is
// reported here too.
//
// A fourth event of each CPU records the unmaps once more, into a ring whose records are discarded, and wakes
// the reader at each record. It counts only while WakeAtOnce is on.
//
// The CPUs are found by system calls and not by a file of /sys, which a container may replace:
// every number is tried until the kernel does not know it. A CPU that is offline is tried again at
// each look. The kernel removes the events from a CPU that goes offline. When a CPU is found to
// have gone offline, or has come online, earlier records of it may be lost; the batch then has
// `overrun` set.
//
// The kernel stamps records with the clock of the host. In a time namespace they are converted to
// the CLOCK_MONOTONIC of this process.
//
// Thread safety: one thread. To close the last event of a tracepoint takes the kernel long.

#ifndef UNDERFOOT_VMM_SOURCES_KERNEL_KVM_TRACEPOINTS_H_
#define UNDERFOOT_VMM_SOURCES_KERNEL_KVM_TRACEPOINTS_H_

#include <linux/perf_event.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/tracefs.h"
#include "vmm/sources/kernel/kernel_records.h"
#include "vmm/sources/kernel/perf_ring.h"

namespace underfoot {

// perf_event_open(2) for all processes on `cpu`.
int OpenPerfEvent(const perf_event_attr& attr, int cpu);

// How far CLOCK_MONOTONIC of this process is ahead of the host's, by a file in the form of
// /proc/self/timens_offsets; 0 without one, as in a kernel without time namespaces.
int64_t MonotonicOffsetNs(const std::string& timens_offsets);

class KvmTracepoints final : public KernelRecordSource {
 public:
  struct Options {
    std::string mountinfo = "/proc/self/mountinfo";  // where to look for tracefs
    std::string timens_offsets = "/proc/self/timens_offsets";
    // perf_event_open for all processes of a CPU: a descriptor, or -1 and errno. Another one lets a
    // test take a CPU away.
    int (*open_event)(const perf_event_attr& attr, int cpu) = &OpenPerfEvent;
    std::chrono::nanoseconds look_period = std::chrono::milliseconds(250);  // for CPUs
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
  void LookForCpus() override { next_look_ns_ = 0; }
  bool WakeAtOnce(bool on) override;
  const std::vector<int>& fds() const override { return fds_; }

  size_t cpus_watched() const;

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
  struct Watched {
    std::vector<Event> events;  // by kind
    Event waker;                // without a descriptor: it could not be opened
    // After the events, so that a ring is unmapped before its event is closed.
    std::optional<PerfRing> unmaps;
    std::optional<PerfRing> ages;
    std::optional<PerfRing> wakes;
    uint64_t enabled_ns = 0;  // for how long its events had counted at the last look

    int FdOf(Kind kind) const { return events[static_cast<size_t>(kind)].fd.get(); }
  };

  KvmTracepoints(HvaRange range, const Options& options) : range_(range), options_(options) {}
  absl::Status Describe();
  // nullptr: the CPU is offline. OutOfRange: the kernel knows no such number.
  absl::StatusOr<std::unique_ptr<Watched>> Watch(int cpu) const;
  absl::StatusOr<Event> OpenEvent(Kind kind, int cpu, uint32_t watermark) const;
  void LookAtCpus(KernelBatch& batch);
  void NoteFds();
  void Drain(Watched& cpu, KernelBatch& batch) const;
  void Add(const Watched& cpu, const PerfSample& sample, KernelBatch& batch) const;

  const HvaRange range_;
  const Options options_;
  std::array<Layout, 3> layouts_;
  int64_t clock_offset_ns_ = 0;  // this process's CLOCK_MONOTONIC minus that of the host
  std::vector<std::unique_ptr<Watched>> cpus_;  // by number; nullptr: not watched
  std::vector<int> fds_;
  int64_t next_look_ns_ = 0;
  int64_t last_look_ns_ = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_KERNEL_KVM_TRACEPOINTS_H_
