// What a source tells of a change of the host mm under guest RAM.
//
// Thread safety: values. HostEventSink: any thread.

#ifndef UNDERFOOT_VMM_MEMORY_HOST_EVENT_H_
#define UNDERFOOT_VMM_MEMORY_HOST_EVENT_H_

#include <time.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "mmu/types.h"

namespace underfoot {

// Who told. Their promises differ: see the table of sources in vmm/README.md.
enum class EventSource : uint8_t { kHook, kUffd, kKernel };
inline constexpr size_t kEventSources = 3;

// What was told, in the words of the source: a hook knows the call, userfaultfd its event, the
// kernel's notifier only that a range lost its translations.
enum class HostChange : uint8_t {
  kDiscard,       // madvise: DONTNEED, FREE, REMOVE; UFFD_EVENT_REMOVE
  kPunch,         // fallocate: PUNCH_HOLE and its kin
  kAdvise,        // madvise: PAGEOUT, COLD, COLLAPSE, MERGEABLE, ...
  kProtect,       // mprotect
  kWriteProtect,  // UFFDIO_WRITEPROTECT
  kMove,          // UFFDIO_MOVE
  kUnmap,         // munmap; UFFD_EVENT_UNMAP; kvm_unmap_hva_range
  kRemap,         // mremap; UFFD_EVENT_REMAP
  kMapOver,       // mmap(MAP_FIXED)
  kFork,          // UFFD_EVENT_FORK
  kAge,           // kvm_age_hva, kvm_test_age_hva
  kLostRecords,   // the source lost records: everything was resynchronized
  kLostCopy,      // a page was found gone that nobody had told of, and repaired
  kFreed,         // likewise, of a page that MADV_FREE had left for the kernel to take
};
inline constexpr size_t kHostChanges = 14;

inline constexpr std::array<std::string_view, kEventSources> kEventSourceNames = {"hook", "uffd",
                                                                                  "kernel"};
inline constexpr std::array<std::string_view, kHostChanges> kHostChangeNames = {
    "discard", "punch", "advise", "protect", "write-protect", "move",      "unmap",
    "remap",   "map",   "fork",   "age",     "lost-records",  "lost-copy", "freed"};

// Why, as far as the name of the thread and the size of the record tell.
enum class HostCause : uint8_t {
  kUnknown,
  kThisProcess,  // a raw call of ours, or a write that broke a copy-on-write page
  kKsm,
  kCollapse,    // into a huge page
  kCompaction,  // or another migration by the kernel's own thread
  kSwapOut,
  kOtherTask,  // a call of its own, or reclaim and compaction on its behalf
  // Just one block of 2 MiB, by whoever: a huge page collapsed or split, or a call over no more.
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

// Nanoseconds of CLOCK_MONOTONIC: the kernel's records are stamped with it too.
inline int64_t MonotonicNs() {
  timespec now{};
  static_cast<void>(clock_gettime(CLOCK_MONOTONIC, &now));
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// As the kernel's records name it. Not for the child of a fork.
inline int32_t ThisThread() {
  thread_local const int32_t id = gettid();
  return id;
}

struct HostEvent {
  EventSource source = EventSource::kHook;
  HostChange change = HostChange::kDiscard;
  HvaRange range;
  int64_t happened_ns = 0;   // as well as the source knows; MonotonicNs
  int64_t taken_ns = 0;      // when it had been acted upon
  int32_t tid = 0;           // of the thread that did it; 0: the source does not tell
  bool invalidated = false;  // a translation of the range was dropped
  // Another source had told of the same change already: nothing was left to do.
  bool known = false;
  std::array<char, 16> task{};  // the thread's name, as in /proc/PID/comm; empty: not told
  HostCause cause = HostCause::kUnknown;
};

class HostEventSink {
 public:
  virtual ~HostEventSink() = default;
  // Must not wait: the reader of userfaultfd calls it (R1), and hooks do inside their bracket.
  virtual void Report(const HostEvent& event) = 0;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_HOST_EVENT_H_
