// The auditor: compares the translations in stage-2 and the pfn caches with the kernel's own page
// table. It compares a few pages continuously, and every page in a sweep.
//
// A comparison counts only if the translation did not change while the two sides were read. A
// difference is compared again after every source has processed all events that it had received by
// then; this is decided by events, not by time. A difference that persists is
//   explained   A late source has reported the page: a removal by userfaultfd, or a change by the
//               kernel. The translation was installed again while the change was still under way.
//               It is repaired.
//   unobserved  Only the kernel notifier could have reported it, and it is off: a frame that
//               changed, a memfd's page that was removed, a page that MADV_FREE had left. It is
//               repaired.
//   unexplained A source should have reported it and did not, or was late. It is left as it is.
//
// Thread safety: Start, Stop and Sweep belong to the owner. Stats may be called by any thread.

#ifndef UNDERFOOT_VMM_AUDIT_AUDITOR_H_
#define UNDERFOOT_VMM_AUDIT_AUDITOR_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <random>

#include "absl/status/status.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "vmm/base/backing.h"
#include "vmm/base/periodic_thread.h"
#include "vmm/evidence/foreign_changes.h"
#include "vmm/evidence/lazy_frees.h"
#include "vmm/evidence/pending_removals.h"
#include "vmm/ram/pagemap.h"
#include "vmm/sources/kernel/kernel_notifier.h"
#include "vmm/sources/uffd/uffd_monitor.h"
#include "vmm/stats/stats.h"

namespace underfoot {

class Auditor {
 public:
  // The sources of explanations. If there is no kernel notifier, or it is not enabled, a difference
  // that only it could have reported is unobserved.
  struct Sources {
    PendingRemovals& removals;
    UffdMonitor& monitor;
    KernelNotifier* kernel = nullptr;
    const ForeignChanges* foreign_changes = nullptr;
    Backing backing = Backing::kAnon;
    const LazyFrees* lazy = nullptr;
  };

  Auditor(Mmu& mmu, const Pagemap& pagemap, const Sources& sources, GfnRange gfns, uint64_t seed);
  ~Auditor();
  Auditor(const Auditor&) = delete;
  Auditor& operator=(const Auditor&) = delete;

  // Starts a thread that compares pages at a low rate until Stop.
  [[nodiscard]] absl::Status Start();
  void Stop() { thread_.Stop(); }

  // Compares every page and every pfn cache once. May be called at any time.
  void Sweep();

  AuditStats Stats() const;

 private:
  enum class [[nodiscard]] Finding : uint8_t{kNothing, kAgrees, kInFlight, kDiffers};
  // A leaf as it was compared, without its A and D bits: these change while the translation stays
  // the same.
  struct Leaf {
    Pte pte;
    Hva page;
    friend bool operator==(const Leaf&, const Leaf&) = default;
  };
  struct Wrong {
    HvaRange range;
    bool gone = false;             // the page is neither present nor swapped out
    bool only_protection = false;  // the frame is equal, the permission differs
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
  void Classify(const Wrong& wrong);
  bool ReportedByKernel(HvaRange range) const;
  bool MayGoUnreported(HvaRange range) const;
  void Repair(HvaRange range);

  Mmu& mmu_;
  const Pagemap& pagemap_;
  const Sources sources_;
  const GfnRange gfns_;
  std::mt19937_64 random_;  // used only by the auditor's thread
  PeriodicThread thread_;
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

#endif  // UNDERFOOT_VMM_AUDIT_AUDITOR_H_
