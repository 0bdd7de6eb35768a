// The auditor: compares what stage-2 and the pfn caches say of a page with what the kernel says of
// it, a few pages all the time and every page in a sweep.
//
// A look counts only when nothing changed the translation while the two were read. A difference is
// looked at again after every source has acted upon what it was told by then: by events, not by
// time. What lasts is
//   explained   a late source told of the page: a removal by userfaultfd, a change by the kernel.
//               The translation came back while the change was still under way; it is repaired
//   unobserved  only the kernel's notifier could have told, and it is off: a frame that changed, a
//               memfd's page that went, one that MADV_FREE had left to go. Repaired
//   unexplained a source should have told and did not, or told too late. Left as it is
//
// Thread safety: Start, Stop and Sweep by the owner; Stats from any thread.

#ifndef UNDERFOOT_VMM_MEMORY_AUDITOR_H_
#define UNDERFOOT_VMM_MEMORY_AUDITOR_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "vmm/backing.h"
#include "vmm/memory/event_log.h"
#include "vmm/memory/kernel_notifier.h"
#include "vmm/memory/lazy_frees.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_monitor.h"
#include "vmm/stats.h"

namespace underfoot {

class Auditor {
 public:
  // What it asks for explanations. Without a kernel notifier, or with one that is not enabled, what
  // only that could have told is unobserved.
  struct Sources {
    SettlingRanges& settling;
    UffdMonitor& monitor;
    KernelNotifier* kernel = nullptr;
    const EventLog* log = nullptr;
    Backing backing = Backing::kAnon;
    const LazyFrees* lazy = nullptr;
  };

  Auditor(Mmu& mmu, const Pagemap& pagemap, const Sources& sources, GfnRange gfns, uint64_t seed);
  ~Auditor();
  Auditor(const Auditor&) = delete;
  Auditor& operator=(const Auditor&) = delete;

  // Samples at a low rate until Stop.
  void Start();
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Looks at every page and every pfn cache once; at any time.
  void Sweep();

  AuditStats Stats() const;

 private:
  enum class [[nodiscard]] Finding : uint8_t{kNothing, kAgrees, kInFlight, kDiffers};
  // A leaf as it was compared, A and D left out: they come and go without the translation changing.
  struct Leaf {
    Pte pte;
    Hva page;
    friend bool operator==(const Leaf&, const Leaf&) = default;
  };
  struct Wrong {
    HvaRange range;
    bool gone = false;             // not there, and not swapped out either
    bool only_protection = false;  // the frame is right
  };

  void Main();
  void SweepChunk(GfnRange gfns);
  void AuditPage(Gfn gfn);
  void AuditCaches();
  std::optional<Wrong> FirstWrongPage(const PfnCache::Description& cache) const;
  std::optional<Leaf> LeafOf(Gfn gfn) const;
  Finding Compare(Gfn gfn, Wrong& wrong) const;
  void AwaitSources() const;
  void Vanished(const Wrong& wrong);
  void Judge(const Wrong& wrong);
  bool ToldByKernel(HvaRange range) const;
  bool MayGoUntold(HvaRange range) const;
  void Repair(HvaRange range);
  bool SleepUnlessStopped() ABSL_LOCKS_EXCLUDED(mutex_);

  Mmu& mmu_;
  const Pagemap& pagemap_;
  const Sources sources_;
  const GfnRange gfns_;
  std::mt19937_64 random_;  // of the auditor's thread
  std::thread thread_;
  // Guards: stop_. Order: innermost.
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Counter checks_;
  Counter cache_checks_;
  Counter sweeps_;
  std::atomic<uint64_t> sweep_us_{0};
  Counter in_flight_;
  Counter explained_uffd_;
  Counter explained_kernel_;
  Counter unobserved_;
  Counter missed_by_hooks_;
  Counter missed_by_uffd_;
  Counter missed_by_kernel_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_AUDITOR_H_
