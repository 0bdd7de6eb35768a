// What a group of benchmarks is run with: which comparisons are wanted, how long, and where the
// results go.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_BENCH_H_
#define UNDERFOOT_TESTS_BENCH_BENCH_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "tests/bench/comparison.h"
#include "tests/bench/options.h"
#include "tests/bench/partner.h"
#include "tests/bench/report.h"

namespace underfoot::bench {

class Bench {
 public:
  explicit Bench(BenchOptions options);

  bool Wants(std::string_view name) const;
  // False when the filter begins with the name of another group, as in "stage2.map": asked before a
  // group builds what it measures on.
  bool WantsGroup(std::string_view group) const;
  // Operations in a turn, of which a quick run does a hundredth.
  uint64_t Operations(uint64_t usual) const;
  bool quick() const { return options_.quick; }

  void Compare(Comparison comparison);
  void Skip(std::string_view name, std::string_view reason);

  const Results& results() const { return results_; }

 private:
  const BenchOptions options_;
  Results results_;
};

// The groups. Each says in its own file what its comparisons are and what they stand on.
void BenchCacheAccess(Bench& bench);
void BenchReaderWait(Bench& bench);
void BenchInvalidation(Bench& bench);
void BenchMemslot(Bench& bench);
void BenchStage2Map(Bench& bench);
void BenchStage2Populate(Bench& bench);
void BenchStage2Lookup(Bench& bench);
void BenchDiscard(Bench& bench);
void BenchHookedCall(Bench& bench);
void BenchFault(Bench& bench);
void BenchGuestFault(Bench& bench);
void BenchKernelSource(Bench& bench);
void BenchFirstByte(Bench& bench);

void BenchAll(Bench& bench);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_BENCH_H_
