// The net below the hooks: reads userfaultfd, brings in what faults, and learns from its events
// what others do to guest RAM.
//
// Its promise is half pairs: REMOVE is a start whose end is never told, UNMAP and REMAP are ends
// whose start was never told. Its rules:
//   R1  the thread never waits for an invalidation to end or a reader to leave, never calls a
//       hook, never touches guest RAM: everybody may be waiting for it
//   R3  EAGAIN is an outcome: the fault goes behind the event that caused it
// A fault that cannot be resolved now is deferred and tried again when a bracket ends, or within a
// millisecond.
//
// Order is repaired, not ignored: a fault may be read before the removal that preceded it (counted:
// reordered), and a page copied in just after a removal was read may be zapped by it (lost copy:
// found at the next fault, invalidated, copied again).
//
// Thread safety: Start and Stop by the owner; Stats from any thread.

#ifndef UNDERFOOT_VMM_MEMORY_UFFD_MONITOR_H_
#define UNDERFOOT_VMM_MEMORY_UFFD_MONITOR_H_

#include <linux/userfaultfd.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "mmu/mmu.h"
#include "mmu/notifier.h"
#include "mmu/reader.h"
#include "vmm/histogram.h"
#include "vmm/memory/expected_events.h"
#include "vmm/memory/fault_window.h"
#include "vmm/memory/guest_page_source.h"
#include "vmm/memory/host_event.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_event_handler.h"
#include "vmm/memory/userfaultfd.h"
#include "vmm/stats.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class UffdMonitor final : public Subscriber {
 public:
  // `sink`: told of each event, and of each page that was found lost; nullptr: nobody.
  // `fault_around`: the most pages that are brought in for a fault, 1..512; 1: itself.
  UffdMonitor(Mmu& mmu, Userfaultfd& uffd, const Pagemap& pagemap, GuestPageSource& source,
              ExpectedEvents& expected, SettlingRanges& settling, HostEventSink* sink = nullptr,
              uint64_t fault_around = 1);
  ~UffdMonitor() override;
  UffdMonitor(const UffdMonitor&) = delete;
  UffdMonitor& operator=(const UffdMonitor&) = delete;

  // A page of these that is found gone is no lost copy; a foreign removal may have been a
  // MADV_FREE. Before Start.
  void NoteLazyFrees(LazyFrees& lazy) { events_.NoteLazyFrees(lazy); }

  [[nodiscard]] absl::Status Start();
  // Nobody may fault on guest RAM, nor change it, from here on.
  void Stop();

  UffdStats Stats() const;
  void CountLostCopy() { events_.CountLostCopy(); }

  // Returns when what was read before the call has been dealt with. Whoever sees a page gone that
  // an event explains: the event was read before the page went, but may not have been taken yet.
  void WaitForBatch() const;

  bool Invalidate(const Invalidation& invalidation) override;
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange range) override;

 private:
  struct Fault {
    Hva page;
    Access access = Access::kRead;
    bool write_protected = false;
    bool minor = false;
    bool alone = false;  // to be brought in without others
    absl::Time read_at;

    GuestPageSource::Fault::Kind kind() const;
  };
  enum class [[nodiscard]] Attempt : uint8_t{kResolved, kDeferred};

  void Main();
  bool ReadAll(const Reader& reader);
  bool ReadBatch(const Reader& reader);
  void TakeFault(const Reader& reader, const uffd_msg& message);
  void CountReordered(std::span<const uffd_msg> messages);
  void RetryDeferred(const Reader& reader);
  struct Target {
    Gfn gfn;
    HvaRange around;  // what could be brought in with it
  };
  // What a stream will fault on next, brought in when no fault waits.
  struct Further {
    HvaRange last = {};  // brought in; empty: nothing to do
    HvaRange within = {};
    GuestPageSource::Fault::Kind kind = GuestPageSource::Fault::Kind::kUnknown;
  };
  void GoFurther(const Reader& reader);
  std::optional<Target> TargetOf(Hva page) const;
  FaultResult HandleFault(const Reader& reader, const Target& target, const Fault& fault);
  Attempt TryResolve(const Reader& reader, const Fault& fault);
  Attempt Resolve(const Reader& reader, const Fault& fault);
  Attempt ResolveWithoutLeaf(const Fault& fault);
  Attempt ResolveUnderLeaf(const Fault& fault, Pte leaf);
  void RepairLostCopy(Gfn gfn, const Fault& fault);
  void Resolved(const Fault& fault, bool woken);

  Mmu& mmu_;
  Userfaultfd& uffd_;
  const Pagemap& pagemap_;
  GuestPageSource& source_;
  ExpectedEvents& expected_;
  SettlingRanges& settling_;
  UffdEventHandler events_;
  UniqueFd wake_;
  std::thread thread_;
  std::vector<Fault> deferred_;  // of the monitor's thread, as the next
  FaultWindow window_;
  Further further_;
  // How many of them. Relaxed: End reads it only to save a wake-up; a missed one costs a
  // millisecond.
  std::atomic<size_t> deferred_count_{0};
  std::atomic<bool> stop_{false};
  // Moves before a read and after its messages are taken: odd meanwhile.
  // Pairs with: WaitForBatch. Without it: the auditor sees the removal and not its explanation.
  std::atomic<uint64_t> batches_{0};

  Counter missing_;
  Counter wp_;
  Counter minor_;
  Counter around_;
  Counter reordered_;
  LatencyHistogram fault_us_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_UFFD_MONITOR_H_
