// The context in which a group of benchmarks runs: the wanted comparisons, the number of rounds,
// and the place for the results.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_BENCH_H_
#define UNDERFOOT_TESTS_BENCH_BENCH_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tests/bench/comparison.h"
#include "tests/bench/options.h"
#include "tests/bench/others_time.h"
#include "tests/bench/partner.h"
#include "tests/bench/report.h"
#include "tests/bench/rounds_file.h"

namespace underfoot::bench {

class Bench {
 public:
  explicit Bench(BenchOptions options);

  bool Wants(std::string_view name) const;
  // Operations in a turn, of which a smoke run does a hundredth.
  uint64_t Operations(uint64_t usual) const;
  bool quick() const { return options_.effort == Effort::kQuick; }
  bool smoke() const { return options_.effort == Effort::kSmoke; }
  bool may_change_host() const { return options_.may_change_host; }
  uint64_t seed() const { return options_.seed; }
  const std::string& peers() const { return options_.peers; }

  void Compare(Comparison comparison);
  void Skip(std::string_view name, std::string_view reason);

  // Runs the groups of the table in bench.cc.
  void RunAll();

  // Adds the rounds that another process has taken, and writes the JSON again. What that process did
  // not measure, or measured with other variants, keeps its figures.
  void Add(const RoundsOfAll& rounds);

  const Results& results() const { return results_; }
  const RoundsOfAll& rounds() const { return rounds_; }

 private:
  bool WantsGroup(std::string_view group) const;
  bool is_first() const { return options_.rounds_path.empty(); }
  bool prints() const { return is_first() && options_.json_path != "-"; }
  void SaveWhatThereIs() const;
  void ShowProgress(std::string_view name) const;

  const BenchOptions options_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double seconds_left_ = 0;  // of the groups to come, in a full run
  double seconds_done_ = 0;
  const std::optional<CpuSeconds> began_ = CpuSeconds::Now();
  Results results_;
  RoundsOfAll rounds_;
};

// The groups: one declaration here and one row of the table in bench.cc for each. Each group's own
// file describes its comparisons and what bounds them.
void BenchCacheAccess(Bench& bench);
void BenchReaderWait(Bench& bench);
void BenchStatisticsCost(Bench& bench);
void BenchInvalidation(Bench& bench);
void BenchPrecheck(Bench& bench);
void BenchRetryRules(Bench& bench);
void BenchMemslot(Bench& bench);
void BenchHungPageIn(Bench& bench);
void BenchHungGuest(Bench& bench);
void BenchStage2Map(Bench& bench);
void BenchStage2Splits(Bench& bench);
void BenchTableSize(Bench& bench);
void BenchStage2Populate(Bench& bench);
void BenchStage2Teardown(Bench& bench);
void BenchStage2Chunks(Bench& bench);
void BenchRetire(Bench& bench);
void BenchStage2Lookup(Bench& bench);
void BenchDiscard(Bench& bench);
void BenchRemovals(Bench& bench);
void BenchDeviceRequests(Bench& bench);
void BenchProtectedRequests(Bench& bench);
void BenchEventSend(Bench& bench);
void BenchHookedCall(Bench& bench);
void BenchFault(Bench& bench);
void BenchGuestFault(Bench& bench);
void BenchHugeFault(Bench& bench);
void BenchKernelSource(Bench& bench);
void BenchVainInvalidations(Bench& bench);
void BenchWorkingSet(Bench& bench);
void BenchFirstByte(Bench& bench);
void BenchPeers(Bench& bench);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_BENCH_H_
