// The third source: what the kernel's MMU notifier reports to KVM, read from KVM's tracepoints.
//
// Its promise is late: it reports everything (swap, migration, KSM, collapse, copy-on-write, fork,
// the calls of all processes), after the change. The hva stays valid and only its frame has changed.
// A record therefore drops translations, which are looked up again, and never claims I1 for frames.
//
//   record ──► announced by our hook, or reported by userfaultfd? ──► known: counted
//                └─ no ──► Begin, End over its pages, now and once more after kChangeEnds
//   record lost ──► Begin, End over all of guest RAM
//   record of an age ──► our own accessed bits of its pages are cleared too
//
// The second time, because the kernel writes a record at the start of a change and none at its end:
// a translation made in between may have the old frame. kChangeEnds is a guess. The auditor finds
// what lasts longer.
//
// A record may be that of a removal which userfaultfd has reported (RemovalRecords). After all
// holders of mmap_lock have released it, the zap is then over and the removal is complete.
//
// The notifier's thread opens the source, which may take long, and reads it at least every kPeriod. After a
// time without records the next one wakes it, and it reads less often (quiet_period_ms).
// It may wait for readers and holds nothing meanwhile. Only Drain waits for this thread.
//
// Thread safety: Start and Stop by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_NOTIFIER_H_
#define UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_NOTIFIER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/notifier.h"
#include "vmm/base/histogram.h"
#include "vmm/base/unique_fd.h"
#include "vmm/evidence/foreign_changes.h"
#include "vmm/evidence/host_event.h"
#include "vmm/evidence/own_changes.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/evidence/removal_records.h"
#include "vmm/sources/kernel/kernel_records.h"
#include "vmm/sources/kernel/task_names.h"
#include "vmm/stats/stats.h"

namespace underfoot {

// All functions are called by the notifier's thread.
struct KernelNotifierOptions {
  // The removals that userfaultfd has reported; nullptr: it reports none.
  RemovalRecords* removal_records = nullptr;
  // What a record of a removal completes: the removal in `removals`, after `wait_for_mmap_lock` has
  // returned (MmapBarrier). nullptr: records complete no removal.
  PendingRemovals* removals = nullptr;
  std::function<void()> wait_for_mmap_lock = nullptr;
  // Receives the pages of each change that only the kernel has reported; nullptr: no auditor asks.
  ForeignChanges* foreign_changes = nullptr;
  // Receives each event, for people to read; nullptr: events are not kept.
  HostEventSink* sink = nullptr;
  // Receives each page that was young to us when the kernel aged it.
  std::function<void(Hva page)> young_sink = nullptr;
  // How often the thread looks while records of unmaps wake it: for a few ages, and for CPUs that have come
  // online. In ms.
  int quiet_period_ms = 50;
  // Called when the source is open: a change from then on is reported. WaitUntilOpen returns after
  // it.
  std::function<void()> open_sink = nullptr;
};

class KernelNotifier final : public Subscriber {
 public:
  using Open = std::function<absl::StatusOr<std::unique_ptr<KernelRecordSource>>()>;

  // `own_changes`: the announced changes of this process. The kernel notifier announces each
  // bracket there itself. Other code announces changes that need no bracket, because no frame
  // changes, but that the kernel reports all the same. `ram` consists of whole pages. `open` is
  // called by the notifier's thread.
  KernelNotifier(Mmu& mmu, OwnChanges& own_changes, HvaRange ram, Open open,
                 KernelNotifierOptions options = {});
  ~KernelNotifier() override;
  KernelNotifier(const KernelNotifier&) = delete;
  KernelNotifier& operator=(const KernelNotifier&) = delete;

  [[nodiscard]] absl::Status Start() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns when the source is open, or when it cannot be opened. The error has the reason and the
  // remedy.
  [[nodiscard]] absl::Status WaitUntilOpen() ABSL_LOCKS_EXCLUDED(mutex_);
  // Every record that the kernel has written so far is acted upon first.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns true when every record that the kernel wrote before the call has been acted upon; false
  // if the source is not open. The kernel writes the record before it changes the page, so a thread
  // that has seen a change and then calls this finds it acted upon. Not inside a section or bracket.
  bool Drain() ABSL_LOCKS_EXCLUDED(mutex_);

  bool enabled() const ABSL_LOCKS_EXCLUDED(mutex_);
  KernelStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Every bracket of this process is announced by its Begin.
  bool Invalidate(const Invalidation& invalidation) override;
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange range) override { own_changes_.Done(range); }

 private:
  enum class State : uint8_t { kNotStarted, kOpening, kOpen, kUnavailable, kStopped };
  struct SecondPass {
    HvaRange range;
    int64_t due_ns = 0;
  };

  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve(KernelRecordSource& source) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns whether there was a record.
  bool TakeAll(KernelRecordSource& source);
  int NextTimeoutMs(KernelRecordSource& source, bool quiet);
  void TakeUnmap(const KernelRecord& record, HvaRange pages);
  void TakeAge(const KernelRecord& record, HvaRange pages);
  void MakeOld(HvaRange pages);
  void Resynchronize();
  bool Known(const KernelRecord& record, HvaRange pages, HostCause task);
  void CompleteRemovals();
  bool Drop(HvaRange pages);
  bool DropForeign(HvaRange pages);
  void DropAgain(int64_t now_ns);
  void Report(const HostEvent& event) const;

  Mmu& mmu_;
  OwnChanges& own_changes_;
  const HvaRange ram_;
  const Open open_;
  const KernelNotifierOptions options_;
  UniqueFd wake_;
  std::thread thread_;

  // Of the thread.
  TaskNames tasks_;
  std::deque<SecondPass> again_;
  int64_t next_age_report_ns_ = 0;
  int64_t quiet_since_ns_ = 0;
  bool woken_by_record_ = false;  // WakeAtOnce is on

  // Guards: the state, and the numbers of drains that were requested and done. Order: innermost,
  // after the locks of Drain's caller.
  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kNotStarted;
  absl::Status why_not_ ABSL_GUARDED_BY(mutex_);
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t drains_wanted_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t drains_done_ ABSL_GUARDED_BY(mutex_) = 0;

  Counter records_;
  Counter unmaps_;
  Counter ages_;
  Counter known_;
  Counter foreign_;
  Counter invalidated_;
  Counter lost_;
  Counter resyncs_;
  std::array<Counter, kHostCauses> causes_;
  LatencyHistogram lag_us_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_KERNEL_KERNEL_NOTIFIER_H_
