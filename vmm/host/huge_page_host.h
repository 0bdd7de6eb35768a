// The huge pages that this host offers: what it allows of transparent ones, and how many hugetlb
// pages are reserved and free. Reserving more is a change of the host as a whole: it needs the
// operator's permission, is written to the journal, and is undone at the end of the run.
//
// Thread safety: any thread, if the places do not change. Provide: one thread.
// After: Documentation/admin-guide/mm/transhuge.rst and hugetlbpage.rst in Linux.

#ifndef UNDERFOOT_VMM_HOST_HUGE_PAGE_HOST_H_
#define UNDERFOOT_VMM_HOST_HUGE_PAGE_HOST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "vmm/base/backing.h"
#include "vmm/host/host_changes.h"

namespace underfoot {

// With other places a test can simulate another host.
struct HugePagePlaces {
  std::string thp = "/sys/kernel/mm/transparent_hugepage";
  std::string hugetlb = "/sys/kernel/mm/hugepages";
};

class HugePageHost {
 public:
  explicit HugePageHost(HugePagePlaces places = {}) : places_(std::move(places)) {}

  // The hugetlb pages of one size.
  struct Pool {
    uint64_t total = 0;     // reserved for hugetlb
    uint64_t free = 0;      // in no use
    uint64_t promised = 0;  // of the free ones, to mappings that exist
    uint64_t surplus = 0;   // how many more the host makes on demand

    // How many a new mapping may have.
    uint64_t available() const { return free - promised + surplus; }
  };
  // nullopt: the host has no pages of this size.
  std::optional<Pool> PoolOf(HugePages huge) const;
  // Whether private memory can have transparent huge pages.
  bool OffersThp() const;
  // "THP madvise, of shared memory advise; hugetlb 2M: 4 reserved, 4 free; 1G: ..."
  std::string Describe() const;

  // Ok if guest RAM of `bytes` can be made of such pages. Otherwise the error names the number that
  // the host has, and the remedy. `changes`: nullptr if the run may not change the host.
  [[nodiscard]] absl::Status Provide(HugePages huge, Backing backing, uint64_t bytes,
                                     HostChanges* changes) const;

 private:
  std::string PathOf(HugePages huge, const char* name) const;
  absl::Status ProvideThp(Backing backing, HostChanges* changes) const;
  absl::Status ProvideHugetlb(HugePages huge, uint64_t bytes, HostChanges* changes) const;

  const HugePagePlaces places_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HUGE_PAGE_HOST_H_
