// Variants of one operation, measured in turns: A B C, B C A, C A B, ...
//
// Times on a shared machine move by half from one minute to the next; the ratio of two variants
// that were measured a millisecond apart does not. So each round gives each variant one turn, a
// round's ratio is taken within the round, and what is reported is the median over the rounds with
// the spread of its middle half.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARISON_H_
#define UNDERFOOT_TESTS_BENCH_COMPARISON_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/statistics.h"
#include "tests/bench/stopwatch.h"

namespace underfoot::bench {

// What one variant measures in one round.
class Turn {
 public:
  // `body()` does `operations` operations: one sample, their mean.
  template <class Body>
  void Time(uint64_t operations, const Body& body) {
    const Stopwatch watch;
    body();
    Record(watch.ElapsedNs() / static_cast<double>(operations));
  }

  // In the unit of the comparison.
  void Record(double figure) { samples_.push_back(figure); }

  // The turn was disturbed, say because the second thread did not get a CPU: it does not count.
  void Discard() { discarded_ = true; }

  bool discarded() const { return discarded_; }
  const std::vector<double>& samples() const { return samples_; }

 private:
  std::vector<double> samples_;
  bool discarded_ = false;
};

// What the project set out to reach. Reported as met or missed, never asserted.
struct Goal {
  enum class Of : uint8_t { kRatio, kMedianNs, kP99Ns };
  Of of = Of::kRatio;
  double at_most = 0;
};

struct Variant {
  std::string name;
  std::function<void(Turn&)> run;
  std::optional<Goal> goal;
};

// A curve consists of comparisons with the same `curve` and the same names of variants.
struct SweepPoint {
  std::string curve;
  std::string variable;  // what `value` counts, as in "caches"
  double value = 0;
};

struct Comparison {
  std::string name;               // group.subject
  std::string what;               // what one operation is
  std::vector<Variant> variants;  // the first is what the others are compared with
  unsigned rounds = 40;           // fewer if the time runs out
  // What a figure counts. Times are always in nanoseconds.
  std::string unit = "ns";
  // Set if the comparison is one point of a curve.
  std::optional<SweepPoint> sweep = std::nullopt;
  std::chrono::nanoseconds time_limit = std::chrono::nanoseconds::max();
  // A smoke run only shows that each variant measures something. Nothing is warmed up; and a turn is
  // shorter than the second thread's step, so disturbed turns count too.
  bool smoke = false;
};

// What one variant has measured in all rounds, before any statistics.
struct VariantRounds {
  std::vector<double> samples = {};
  std::vector<double> medians = {};  // one for each round with a valid turn
  std::vector<double> ratios = {};   // one for each round in which the baseline had one too
  uint64_t discarded = 0;            // turns
};

struct Rounds {
  unsigned count = 0;
  std::vector<VariantRounds> variants = {};  // in the order of the comparison
};

struct VariantResult {
  std::string name;
  Summary figure = {};  // of all samples
  Spread round_medians = {};
  // To the baseline, round by round. nullopt: in no round were both measured and the baseline above
  // 0.
  std::optional<Spread> ratio = std::nullopt;
  uint64_t discarded = 0;  // turns
  std::optional<Goal> goal = std::nullopt;

  double FigureOf(Goal::Of of) const;
  // nullopt: there is no goal.
  std::optional<bool> GoalMet() const;
};

struct ComparisonResult {
  std::string name;
  std::string what;
  unsigned rounds = 0;
  std::string unit;
  std::optional<SweepPoint> sweep;
  std::vector<VariantResult> variants;
};

// One round more than asked for, but in a smoke run: the first one warms up and does not count. When the time limit has
// passed, the round in progress is the last, but kLeastRounds are always measured.
inline constexpr unsigned kLeastRounds = 2;
Rounds TakeRounds(const Comparison& comparison);

// Adds the rounds that another process has taken of the same comparison.
void Append(Rounds& rounds, const Rounds& more);

ComparisonResult ResultOf(const Comparison& comparison, const Rounds& rounds);
// Computes the figures of `result` again, from more rounds.
void Update(ComparisonResult& result, const Rounds& rounds);

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARISON_H_
