// One of the threads that read userfaultfd. It applies events and serves faults.
//
//   poll ──► word odd ──► read ──► an event is applied ──► word even ──► a fault is served ──┐
//    ▲                                                                       deferred:       │
//    └── what is due is tried again ◄──────────── put off, with a deadline of its own ◄──────┘
//
// A pinned handler that has read a message reads again without a poll. One of several handlers may
// back off for a few milliseconds (handler_back_off.h).
//
// Order of the kernel: read() returns faults before events, whichever came first, and while an event
// waits to be read every copy answers EAGAIN. A handler that has put a fault off therefore reads
// again before it tries the fault again: only a read lets the event go on.
//
// Order of handlers: none, and none is needed. To apply an event is an invalidation, which is right
// at any time and in any order (vmm/sources/README.md, "Several handlers").
//
// Its rules:
//   R1  It never waits for an invalidation to end, a reader to leave or another handler, never
//       calls a hook, and never touches guest RAM: any of these may be waiting for this thread.
//   R3  EAGAIN is an outcome: the fault goes behind the event that caused it. A lack of descriptors
//       is an outcome too: a fork event that needs one is read later, and counted.
//
// Thread safety: Start, Stop and Join by the owner; Wake and the counters by any thread.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_THREAD_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_THREAD_H_

#include <linux/userfaultfd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "mmu/readers/reader.h"
#include "vmm/base/unique_fd.h"
#include "vmm/evidence/event_reads.h"
#include "vmm/evidence/expected_events.h"
#include "vmm/ram/userfaultfd.h"
#include "vmm/sources/uffd/fault_resolver.h"
#include "vmm/sources/uffd/handler_back_off.h"
#include "vmm/sources/uffd/uffd_event_handler.h"

namespace underfoot {

// What the handlers of one userfaultfd have in common.
struct HandlerContext {
  Mmu& mmu;
  Userfaultfd& uffd;
  EventReads& reads;
  UffdEventHandler& events;
  FaultResolver& resolver;
  // The handlers that have met a fork event for which there is no descriptor. Relaxed: it decides
  // only whether the event is counted anew.
  std::atomic<unsigned> met_fork_that_waits{0};
  Counter fork_waits_count{};
  std::atomic<unsigned> listening{0};  // HandlerBackOff
};

// Where a handler runs, and how many messages it reads at once.
struct HandlerPlace {
  unsigned index = 0;          // its word in EventReads
  std::vector<int> cpus = {};  // empty: any CPU, and a raised priority
  size_t messages = 1;
};

class HandlerThread {
 public:
  static constexpr size_t kMostMessages = 16;

  struct Counters {
    Counter missing;
    Counter wp;
    Counter minor;
    Counter reordered;
    Counter put_off;
    Counter cpu_samples;
    Counter crossed_cpus;
  };

  HandlerThread(HandlerContext& shared, HandlerPlace place);
  ~HandlerThread() { Stop(), Join(); }
  HandlerThread(const HandlerThread&) = delete;
  HandlerThread& operator=(const HandlerThread&) = delete;

  [[nodiscard]] absl::Status Start();
  // From here on no thread may fault on guest RAM or change it. What is put off is dropped.
  void Stop();
  void Join();

  // A bracket has ended that may have been in the way of a fault.
  void WakeIfBlocked();

  const Counters& counters() const { return counters_; }

 private:
  void Main();
  void WaitForWork(HandlerBackOff& back_off);
  bool ReadAndServe(const Reader& reader, HandlerBackOff& back_off);
  void NoteRead(HandlerBackOff& back_off, bool found);
  void TakeFault(const Reader& reader, const uffd_msg& message);
  void CountReordered(std::span<const uffd_msg> messages);
  void SampleCpu(const uffd_msg& message);
  void RetryDeferred(const Reader& reader);
  void NoteForkWaits(bool waits);
  bool IsDue(const UffdFault& fault, int64_t now_ns) const;
  void NoteDeferred();

  HandlerContext& shared_;
  const HandlerPlace place_;
  UniqueFd wake_;
  std::thread thread_;
  std::vector<UffdFault> deferred_;  // of the thread, as the next
  bool readable_ = false;            // poll has found userfaultfd readable
  bool fork_waits_ = false;          // an event that the kernel has no descriptor for
  int64_t fork_retry_ns_ = 0;        // when it is tried again
  bool raised_ = false;
  uint64_t faults_ = 0;
  FaultResolver::Ahead ahead_;
  // How many of them wait for a bracket. Relaxed: End reads it only to save a wake-up; what it
  // misses comes at its own time.
  std::atomic<size_t> blocked_count_{0};
  std::atomic<bool> stop_{false};
  Counters counters_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_HANDLER_THREAD_H_
