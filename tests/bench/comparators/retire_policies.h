// How unlinked table pages may be freed after a grace period: one deferred call for each table, or
// for each subtree as in KVM on arm64, or for each batch with a cap in bytes; or gathered up to the
// cap and freed by the retiring thread after a grace period of its own.
//
// Thread safety: one thread retires; liburcu's worker frees.
// Compare: mmu/stage2/retired, which has the last two: HandOver and FreeAfterGracePeriod.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_RETIRE_POLICIES_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_RETIRE_POLICIES_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "mmu/base/rcu.h"
#include "mmu/base/types.h"
#include "mmu/stage2/retired.h"

namespace underfoot::bench {

enum class RetirePolicy { kPerTable, kPerSubtree, kBatchedWithCap, kGracePeriodAtCap };

class RetirePolicies {
 public:
  static constexpr uint64_t kCapTables = RetiredTables::kDefaultCapBytes / kPageSize;
  static constexpr uint64_t kSubtreeTables = 512;  // those of 1 GiB of pages of 4 KiB
  static constexpr uint64_t kBatchTables = 8;      // what one invalidation of 16 MiB unlinks

  explicit RetirePolicies(RetirePolicy policy) : policy_(policy) {}
  ~RetirePolicies() { rcu::Barrier(); }
  RetirePolicies(const RetirePolicies&) = delete;
  RetirePolicies& operator=(const RetirePolicies&) = delete;

  struct Figures {
    double ns_a_table = 0;       // of the retiring thread
    uint64_t peak_bytes = 0;     // retired and not freed
    double oldest_ns = 0;        // from the retirement to the free, at worst
    double longest_call_ns = 0;  // of one deferred call
  };
  // Retires so many tables as fast as the policy permits, and waits until all are freed.
  Figures Retire(uint64_t tables);

 private:
  using Clock = std::chrono::steady_clock;

  struct Retired : rcu::DeferHead {
    Retired* next;
    RetirePolicies* owner;
    Clock::time_point since;
    std::byte rest[kPageSize - sizeof(rcu::DeferHead) - 3 * sizeof(void*)];
  };
  static_assert(sizeof(Retired) == kPageSize);

  uint64_t TablesInACall() const;
  void HandOver(Retired* first);
  void FreeChain(Retired* first);

  const RetirePolicy policy_;
  std::atomic<uint64_t> pending_{0};  // tables
  uint64_t peak_ = 0;
  // Written by the thread that frees, read after rcu::Barrier.
  double oldest_ns_ = 0;
  double longest_call_ns_ = 0;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_RETIRE_POLICIES_H_
