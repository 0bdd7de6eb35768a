// The auditor: compares what stage-2 says of a page with what the kernel says of it.
//
// A sample counts only when nothing changed the translation while the two were read. A difference
// that a foreign removal explains is a lost copy: it is repaired and counted there. Every other one
// is a difference.
//
// Thread safety: Start and Stop by the owner; Stats from any thread.

#ifndef UNDERFOOT_VMM_MEMORY_AUDITOR_H_
#define UNDERFOOT_VMM_MEMORY_AUDITOR_H_

#include <cstdint>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mmu/mmu.h"
#include "vmm/memory/pagemap.h"
#include "vmm/memory/settling.h"
#include "vmm/memory/uffd_monitor.h"
#include "vmm/stats.h"

namespace underfoot {

class Auditor {
 public:
  Auditor(Mmu& mmu, const Pagemap& pagemap, SettlingRanges& settling, UffdMonitor& monitor,
          GfnRange gfns, uint64_t seed);
  ~Auditor();
  Auditor(const Auditor&) = delete;
  Auditor& operator=(const Auditor&) = delete;

  // Samples at a low rate until Stop.
  void Start();
  void Stop() ABSL_LOCKS_EXCLUDED(mutex_);

  // Looks at every page once: at the end of a run, when nothing moves.
  void Sweep();

  AuditStats Stats() const;

 private:
  enum class [[nodiscard]] Finding : uint8_t{kNothing, kAgrees, kDiffers};

  void Main();
  void AuditPage(Gfn gfn);
  Finding Compare(Gfn gfn, Hva& page) const;
  bool SleepUnlessStopped() ABSL_LOCKS_EXCLUDED(mutex_);

  Mmu& mmu_;
  const Pagemap& pagemap_;
  SettlingRanges& settling_;
  UffdMonitor& monitor_;
  const GfnRange gfns_;
  std::mt19937_64 random_;  // of the auditor's thread
  std::thread thread_;
  // Guards: stop_. Order: innermost.
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Counter checks_;
  Counter differences_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_AUDITOR_H_
