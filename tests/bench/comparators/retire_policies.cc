#include "tests/bench/comparators/retire_policies.h"

#include <algorithm>
#include <new>
#include <utility>

#include "mmu/base/ordering.h"
#include "mmu/stage2/table_memory.h"

namespace underfoot::bench {
namespace {

using std::chrono::steady_clock;

double NsSince(steady_clock::time_point start) {
  return std::chrono::duration<double, std::nano>(steady_clock::now() - start).count();
}

}  // namespace

uint64_t RetirePolicies::TablesInACall() const {
  switch (policy_) {
    case RetirePolicy::kPerTable:
      return 1;
    case RetirePolicy::kPerSubtree:
      return kSubtreeTables;
    case RetirePolicy::kBatchedWithCap:
      return kBatchTables;
    case RetirePolicy::kGracePeriodAtCap:
      return kCapTables;
  }
  return 1;
}

void RetirePolicies::FreeChain(Retired* first) {
  const Clock::time_point start = Clock::now();
  uint64_t freed = 0;
  while (first != nullptr) {
    Retired* const next = first->next;
    oldest_ns_ = std::max(oldest_ns_, NsSince(first->since));
    table_memory::Free(first);
    first = next;
    ++freed;
  }
  pending_.fetch_sub(freed, kRelaxed);
  longest_call_ns_ = std::max(longest_call_ns_, NsSince(start));
}

void RetirePolicies::HandOver(Retired* first) {
  if (policy_ == RetirePolicy::kGracePeriodAtCap) {
    rcu::Synchronize();
    return FreeChain(first);
  }
  rcu::Defer(first, [](rcu::DeferHead* head) {
    auto* const chain = static_cast<Retired*>(head);
    chain->owner->FreeChain(chain);
  });
  if (policy_ == RetirePolicy::kBatchedWithCap && pending_.load(kRelaxed) > kCapTables) {
    rcu::Barrier();
  }
}

RetirePolicies::Figures RetirePolicies::Retire(uint64_t tables) {
  std::vector<Retired*> unlinked;
  unlinked.reserve(tables);
  for (uint64_t i = 0; i < tables; ++i) {
    unlinked.push_back(::new (table_memory::Allocate()) Retired);
  }
  peak_ = 0;
  oldest_ns_ = 0;
  longest_call_ns_ = 0;
  const Clock::time_point start = Clock::now();
  Retired* chain = nullptr;
  uint64_t chained = 0;
  for (Retired* table : unlinked) {
    table->next = chain;
    table->owner = this;
    table->since = Clock::now();
    chain = table;
    peak_ = std::max(peak_, pending_.fetch_add(1, kRelaxed) + 1);
    if (++chained < TablesInACall()) continue;
    HandOver(std::exchange(chain, nullptr));
    chained = 0;
  }
  if (chain != nullptr) HandOver(chain);
  const double ns = NsSince(start);
  rcu::Barrier();
  return {.ns_a_table = ns / static_cast<double>(tables),
          .peak_bytes = peak_ * kPageSize,
          .oldest_ns = oldest_ns_,
          .longest_call_ns = longest_call_ns_};
}

}  // namespace underfoot::bench
