// The report of one source about one change that the host mm made to guest RAM.
//
// Thread safety: values. HostEventSink: any thread.

#ifndef UNDERFOOT_VMM_EVIDENCE_HOST_EVENT_H_
#define UNDERFOOT_VMM_EVIDENCE_HOST_EVENT_H_

#include <time.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mmu/base/types.h"

namespace underfoot {

// The source of the report. The sources promise different things: see the table in
// vmm/sources/README.md.
enum class EventSource : uint8_t { kHook, kUffd, kKernel };
inline constexpr size_t kEventSources = 3;

// What happened to the range, as far as the source knows. A hook knows which system call it is and
// what that call does. userfaultfd knows the type of its event. The kernel's MMU notifier knows
// only that a range lost its translations.
enum class HostChange : uint8_t {
  kDiscard,       // madvise: DONTNEED, FREE, REMOVE; UFFDIO_MOVE into the bin; UFFD_EVENT_REMOVE
  kPunch,         // fallocate: PUNCH_HOLE and the modes that also remove pages
  kAdvise,        // madvise: PAGEOUT, COLD, COLLAPSE, MERGEABLE, ...
  kProtect,       // mprotect
  kWriteProtect,  // UFFDIO_WRITEPROTECT
  kMove,          // UFFDIO_MOVE whose other range is not the bin
  kUnmap,         // munmap; UFFD_EVENT_UNMAP; kvm_unmap_hva_range
  kRemap,         // mremap; UFFD_EVENT_REMAP
  kMapOver,       // mmap(MAP_FIXED)
  kFork,          // UFFD_EVENT_FORK
  kAge,           // kvm_age_hva, kvm_test_age_hva
  kLostRecords,   // the source lost records, so all translations were resynchronized
  kLostCopy,      // a page was found absent without any report, and was repaired
  kFreed,         // the same for a page that MADV_FREE had left for the kernel to free later
};
inline constexpr size_t kHostChanges = 14;

inline constexpr std::array<std::string_view, kEventSources> kEventSourceNames = {"hook", "uffd",
                                                                                  "kernel"};
inline constexpr std::array<std::string_view, kHostChanges> kHostChangeNames = {
    "discard", "punch", "advise", "protect", "write-protect", "move",      "unmap",
    "remap",   "map",   "fork",   "age",     "lost-records",  "lost-copy", "freed"};

// The cause, inferred from the name of the thread and the size of the record.
enum class HostCause : uint8_t {
  kUnknown,
  kThisProcess,  // a raw system call of this process, or a write that broke a copy-on-write page
  kKsm,
  kCollapse,    // into a huge page
  kCompaction,  // compaction, or another migration by the kernel's own thread
  kSwapOut,
  kOtherTask,  // a system call of another task, or reclaim and compaction on its behalf
  // Exactly one block of 2 MiB, by any thread: a huge page was collapsed or split, or a system call
  // covered only this block.
  kHugePage,
};
inline constexpr size_t kHostCauses = 8;
inline constexpr std::array<std::string_view, kHostCauses> kHostCauseNames = {
    "unknown",    "this-process", "ksm",        "collapse",
    "compaction", "swap-out",     "other-task", "huge-page"};
constexpr std::string_view HostCauseName(HostCause cause) {
  return kHostCauseNames[static_cast<size_t>(cause)];
}

constexpr std::string_view EventSourceName(EventSource source) {
  return kEventSourceNames[static_cast<size_t>(source)];
}
constexpr std::string_view HostChangeName(HostChange change) {
  return kHostChangeNames[static_cast<size_t>(change)];
}

// Nanoseconds of CLOCK_MONOTONIC, the clock that also stamps the kernel's records.
inline int64_t MonotonicNs() {
  timespec now{};
  static_cast<void>(clock_gettime(CLOCK_MONOTONIC, &now));
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// The number of this thread, as it appears in the kernel's records. Not valid in the child of a
// fork.
inline int32_t ThisThread() {
  thread_local const int32_t id = gettid();
  return id;
}

struct HostEvent {
  EventSource source = EventSource::kHook;
  HostChange change = HostChange::kDiscard;
  HvaRange range;
  int64_t happened_ns = 0;     // when it happened, as exactly as the source knows; by MonotonicNs
  int64_t taken_ns = 0;        // when the source had finished acting on it
  int32_t tid = 0;             // the thread that made the change; 0: the source does not report it
  std::string_view call = {};  // for a hook: the name of the system call, a constant; else empty
  bool invalidated = false;    // a translation of the range was dropped
  // Another source had already reported the same change, so nothing was left to do.
  bool known = false;
  std::array<char, 16> task{};  // the thread's name, as in /proc/PID/comm; empty: not reported
  HostCause cause = HostCause::kUnknown;
};

class HostEventSink {
 public:
  virtual ~HostEventSink() = default;
  // Must not block: the userfaultfd monitor thread calls it (R1), and hooks call it inside their
  // bracket.
  virtual void Report(const HostEvent& event) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_HOST_EVENT_H_
