// Memory whose blocks of 2 MiB are brought in by one userfaultfd ioctl each, with nothing around it:
// the least that a program must do to bring in huge pages. The handler is on the guest's CPU, and never
// waits for a block to be cleared: as many are ready as the memory has.
//
//   kMoved      private memory; a thread clears transparent huge pages ahead, UFFDIO_MOVE moves them in
//   kContinued  hugetlb pages of a memfd that are there; UFFDIO_CONTINUE maps them
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_HUGE_PAGES_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_HUGE_PAGES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {

class RawHugePages {
 public:
  enum class How : uint8_t { kMoved, kContinued };

  // `pages` of 4 KiB, whole blocks. Faults are served by a thread on `cpu`.
  static absl::StatusOr<std::shared_ptr<RawHugePages>> Create(How how, uint64_t pages, int cpu);
  ~RawHugePages();
  RawHugePages(const RawHugePages&) = delete;
  RawHugePages& operator=(const RawHugePages&) = delete;

  HvaRange range() const { return range_; }
  // No page is mapped afterwards, and as many huge pages are clear as are kept.
  void Empty();

 private:
  RawHugePages(How how, UniqueFd uffd, UniqueFd stop)
      : how_(how), uffd_(std::move(uffd)), stop_fd_(std::move(stop)) {}
  absl::Status Map(uint64_t pages);
  absl::Status Register() const;
  Hva PoolBlock(uint64_t number) const;
  void Serve(int cpu);
  void Fill();
  void BringIn(Hva block);

  const How how_;
  UniqueFd file_;  // of kContinued
  HvaRange range_;
  HvaRange pool_;  // of kMoved: as many blocks
  uint64_t blocks_ = 0;
  UniqueFd uffd_;
  UniqueFd stop_fd_;
  // How many blocks were cleared, and how many of them were moved away. Each is written by one
  // thread. Acquire and release: the page tables of the block, and its pages, go from one thread to
  // the other.
  std::atomic<uint64_t> cleared_{0};
  std::atomic<uint64_t> moved_{0};
  std::atomic<bool> stop_{false};
  std::thread handler_;
  std::thread filler_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_HUGE_PAGES_H_
