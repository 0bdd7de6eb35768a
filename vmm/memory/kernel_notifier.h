// The third source: what the kernel's own MMU notifier tells KVM, read from its tracepoints.
//
// Its promise is late: everything is told (swap, migration, KSM, collapse, copy-on-write, fork, the
// calls of everybody), after the fact. The hva stays valid, only the frame behind it changed: so a
// record drops translations, which are looked up again, and never claims I1 for frames.
//
//   record ──► announced by a hook of ours, or told by userfaultfd? ──► known: counted
//                └─ no ──► Begin, End over its pages, now and once more after kChangeEnds
//   record lost ──► Begin, End over all of guest RAM
//   record of an age ──► our own accessed bits of its pages are cleared too
//
// Once more, because a record stands at the start of a change and none at its end: a translation
// made in between may be of the old frame. The bound is a guess, no evidence; the auditor finds
// what outlasts it.
//
// A record of exactly the range that userfaultfd told of, by no thread of the kernel's own, is that
// removal's: when mmap_lock has been free after it, the zap is over, and its pages have settled.
// Another change of just those pages at that moment would be mistaken for it.
//
// A thread of its own opens the source, which may take long, and reads it at least every kPeriod.
// It may wait for readers, holds nothing meanwhile, and nobody waits for it but Drain.
//
// Thread safety: Start and Stop by the owner; all else from any thread.

#ifndef UNDERFOOT_VMM_MEMORY_KERNEL_NOTIFIER_H_
#define UNDERFOOT_VMM_MEMORY_KERNEL_NOTIFIER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/notifier.h"
#include "vmm/histogram.h"
#include "vmm/memory/event_log.h"
#include "vmm/memory/kernel_records.h"
#include "vmm/memory/own_changes.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/task_names.h"
#include "vmm/stats.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class KernelNotifier final : public Subscriber {
 public:
  using Open = std::function<absl::StatusOr<std::unique_ptr<KernelRecordSource>>()>;
  // Told of each record of an access, from the notifier's thread: which pages, and when.
  using AgeSink = std::function<void(HvaRange pages, int64_t time_ns)>;

  // Told of each page that was young to us when the kernel aged it, from the notifier's thread.
  using YoungSink = std::function<void(Hva page)>;

  // What the kernel's record of a removal is evidence for.
  struct Evidence {
    SettlingRanges* settling = nullptr;  // told that the removal's zap is over; nullptr: nobody
    std::function<void()> wait;          // for whoever holds mmap_lock (MmapBarrier)
  };

  // `ram` is whole pages. `open` is called by the notifier's thread.
  KernelNotifier(Mmu& mmu, EventLog& log, HvaRange ram, Open open);
  ~KernelNotifier() override;
  KernelNotifier(const KernelNotifier&) = delete;
  KernelNotifier& operator=(const KernelNotifier&) = delete;

  void SetAgeSink(AgeSink sink) { age_sink_ = std::move(sink); }            // before Start
  void SetYoungSink(YoungSink sink) { young_sink_ = std::move(sink); }      // before Start
  void SetEvidence(Evidence evidence) { evidence_ = std::move(evidence); }  // before Start

  [[nodiscard]] absl::Status Start() ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns once the source is open, or cannot be: then why, with the remedy.
  [[nodiscard]] absl::Status WaitUntilOpen() ABSL_LOCKS_EXCLUDED(mutex_);
  // Everything told so far is acted upon first.
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns when everything that the kernel told before the call has been acted upon; false when
  // nothing is told, since the source is not open. A changed page was told of before it changed, so
  // whoever has seen the change and calls this finds it taken. Not inside a section or a bracket.
  bool Drain() ABSL_LOCKS_EXCLUDED(mutex_);

  bool enabled() const ABSL_LOCKS_EXCLUDED(mutex_);
  KernelStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

  // For changes that need no bracket, since no frame changes, and are told all the same.
  OwnChanges& own_changes() { return own_changes_; }

  // Every bracket of this process is announced by its Begin.
  bool Invalidate(const Invalidation& invalidation) override;
  bool TestClearYoung(HvaRange, bool) override { return false; }
  void OnEnd(HvaRange range) override { own_changes_.Done(range); }

 private:
  enum class State : uint8_t { kNotStarted, kOpening, kOpen, kUnavailable, kStopped };
  // A removal goes over a page once: it explains one record of each byte.
  struct Removal {
    HvaRange range;
    int64_t happened_ns = 0;
    uint64_t bytes_left = 0;
  };
  struct SecondPass {
    HvaRange range;
    int64_t due_ns = 0;
  };

  void Main() ABSL_LOCKS_EXCLUDED(mutex_);
  void Serve(KernelRecordSource& source) ABSL_LOCKS_EXCLUDED(mutex_);
  void TakeAll(KernelRecordSource& source);
  void LearnRemovals();
  void TakeUnmap(const KernelRecord& record, HvaRange pages);
  void TakeAge(const KernelRecord& record, HvaRange pages);
  void MakeOld(HvaRange pages);
  void Resynchronize();
  bool Known(const KernelRecord& record, HvaRange pages, HostCause task);
  bool OfRemoval(const KernelRecord& record, HvaRange pages, HostCause task);
  void TakeEvidence(const Removal& removal);
  void TellPassed();
  bool Drop(HvaRange pages);
  void DropAgain(int64_t now_ns);

  Mmu& mmu_;
  EventLog& log_;
  const HvaRange ram_;
  const Open open_;
  AgeSink age_sink_;
  YoungSink young_sink_;
  Evidence evidence_;
  OwnChanges own_changes_;
  UniqueFd wake_;
  std::thread thread_;

  // Of the thread.
  TaskNames tasks_;
  std::deque<Removal> removals_;  // by userfaultfd, the latest last
  std::deque<SecondPass> again_;
  std::vector<Removal> passed_;  // whose zap a record has told of
  // Records of no removal that was known by then: userfaultfd's reader may have been slow.
  std::deque<KernelRecord> unclaimed_;
  uint64_t next_event_ = 0;  // of the log
  int64_t next_age_report_ns_ = 0;

  // Guards: the state and who waits for what. Order: innermost, after what Drain's caller holds.
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

#endif  // UNDERFOOT_VMM_MEMORY_KERNEL_NOTIFIER_H_
