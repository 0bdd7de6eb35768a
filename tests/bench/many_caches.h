// A machine with many pfn caches, of which the first is read.
//
// Thread safety: one thread reads, another one invalidates and refreshes.

#ifndef UNDERFOOT_TESTS_BENCH_MANY_CACHES_H_
#define UNDERFOOT_TESTS_BENCH_MANY_CACHES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "mmu/base/check.h"
#include "tests/bench/cached_word.h"
#include "tests/bench/resident_vm.h"
#include "tests/bench/stopwatch.h"

namespace underfoot::bench {

// The caches are on every second page, so that there is a page between two of them to invalidate;
// and one page is far from all.
class ManyCaches {
 public:
  explicit ManyCaches(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) {
      caches_.push_back(std::make_unique<PfnCache>(vm_.mmu(), absl::StrCat("bench ", i)));
      const absl::Status active =
          caches_.back()->Activate(reader_, GpaOf(Gfn{2 * i}), 8, Access::kRead);
      UNDERFOOT_CHECK(active.ok(), "a benchmark's cache was refused", i, active.raw_code());
    }
    // A leaf that stays: no invalidation empties the first table.
    static_cast<void>(vm_.mmu().faults().FaultIn(reader_, Gfn{511}, Access::kRead));
  }
  ~ManyCaches() {
    for (const auto& cache : caches_) cache->Deactivate();
  }
  ManyCaches(const ManyCaches&) = delete;
  ManyCaches& operator=(const ManyCaches&) = delete;

  // Of the first cache.
  void ReadFirst(uint64_t times) {
    CachedWord word(*caches_.front(), reader_);
    for (uint64_t i = 0; i < times; ++i) KeepAlive(word.Read(0).value_or(0));
  }
  void ReadOrRefreshFirst(uint64_t times) {
    CachedWord word(*caches_.front(), reader_);
    for (uint64_t i = 0; i < times; ++i) KeepAlive(word.ReadOrRefresh());
  }
  void Invalidate(HvaRange range) {
    const InvalidationScope scope(vm_.mmu().notifier(), {range, InvalidationKind::kUnmap});
  }
  void RefreshFirst() { static_cast<void>(caches_.front()->Refresh(refresher_)); }

  // No cache overlaps Between() and Far().
  HvaRange Between() const { return vm_.PageAt(caches_.size() | 1); }
  HvaRange Far() const { return vm_.PageAt(kPages - 1); }
  HvaRange First() const { return vm_.PageAt(0); }

 private:
  static constexpr uint64_t kPages = 4 * 4096;

  ResidentVm vm_{kPages};
  Reader reader_{vm_.mmu().readers()};
  Reader refresher_{vm_.mmu().readers()};
  std::vector<std::unique_ptr<PfnCache>> caches_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_MANY_CACHES_H_
