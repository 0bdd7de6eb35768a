// Userfaultfd with nothing around it: the minimum that a program must do to bring its own pages in,
// and the cost of receiving events about removals.
//
// Thread safety: any thread calls CopyZeroes, one thread Serve.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_UFFD_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_UFFD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "tests/bench/anonymous_memory.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::bench {

class RawUffdMemory {
 public:
  enum class Events { kFaultsOnly, kRemovalsToo };
  static constexpr uint64_t kMostPages = 64;  // in one copy

  // Registered for missing pages.
  static absl::StatusOr<std::unique_ptr<RawUffdMemory>> Create(uint64_t pages, Events events);
  ~RawUffdMemory();
  RawUffdMemory(const RawUffdMemory&) = delete;
  RawUffdMemory& operator=(const RawUffdMemory&) = delete;

  const AnonymousMemory& memory() const { return memory_; }
  // At most kMostPages. False: something is there already, or the mm is changing.
  bool CopyZeroes(uint64_t first, uint64_t count = 1) {
    return CopyZeroesTo(memory_.Pages(first, count)) == 0;
  }

  // Whether a copy says EAGAIN now, because a removal's event is not read yet, or its thread has not
  // gone on since. `present`: a page that is there, so nothing is copied.
  bool RefusesCopies(uint64_t present);

  // Starts a thread that polls, reads a message, copies zeroes to the aligned window of `pages`
  // (a power of two, at most kMostPages) in which a fault lies, and only reads everything else.
  // `cpu`: it is pinned there and preempts no thread; absent: it is raised, on any CPU, as a machine's only
  // handler is. Threads that fault must not share a window, and none may remove pages meanwhile: a copy
  // that finds a page there, or is refused, wakes no thread.
  void Serve(std::optional<int> cpu, uint64_t pages = 1);

 private:
  RawUffdMemory(uint64_t pages, UniqueFd fd, UniqueFd stop)
      : memory_(pages), fd_(std::move(fd)), stop_(std::move(stop)) {}
  int CopyZeroesTo(HvaRange pages);  // 0, EEXIST or EAGAIN
  void Main(std::optional<int> cpu, uint64_t pages);

  AnonymousMemory memory_;
  const AnonymousMemory zeroes_{kMostPages};
  UniqueFd fd_;
  UniqueFd stop_;
  std::vector<std::thread> threads_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_RAW_UFFD_H_
