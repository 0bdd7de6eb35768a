#include "tests/bench/comparison.h"

namespace underfoot::bench {
namespace {

// A discarded turn is taken again, so often in all.
constexpr unsigned kAttempts = 4;

struct Collected {
  std::vector<double> samples;
  std::vector<double> medians;
  std::vector<double> ratios;
  uint64_t discarded = 0;
};

// The median of a valid turn; nullopt when there was none.
std::optional<double> TakeTurn(const Variant& variant, bool keep_disturbed, Collected& collected) {
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    Turn turn;
    variant.run(turn);
    if (turn.samples().empty() || (turn.discarded() && !keep_disturbed)) {
      ++collected.discarded;
      continue;
    }
    collected.samples.insert(collected.samples.end(), turn.samples().begin(), turn.samples().end());
    return Quantile(turn.samples(), 0.5);
  }
  return std::nullopt;
}

void TakeRound(const Comparison& comparison, unsigned round, std::vector<Collected>& collected) {
  const std::vector<Variant>& variants = comparison.variants;
  std::vector<std::optional<double>> medians(variants.size());
  for (size_t i = 0; i < variants.size(); ++i) {
    const size_t turn = (i + round) % variants.size();
    medians[turn] = TakeTurn(variants[turn], comparison.keep_disturbed, collected[turn]);
    if (medians[turn].has_value()) collected[turn].medians.push_back(*medians[turn]);
  }
  if (!medians[0].has_value() || *medians[0] <= 0) return;
  for (size_t i = 0; i < variants.size(); ++i) {
    if (medians[i].has_value()) collected[i].ratios.push_back(*medians[i] / *medians[0]);
  }
}

}  // namespace

double VariantResult::FigureOf(Goal::Of of) const {
  switch (of) {
    case Goal::Of::kRatio:
      return ratio.has_value() ? ratio->median : 0;
    case Goal::Of::kMedianNs:
      return figure.median;
    case Goal::Of::kP99Ns:
      return figure.p99;
  }
  return 0;
}

std::optional<bool> VariantResult::GoalMet() const {
  if (!goal.has_value() || figure.samples == 0) return std::nullopt;
  if (goal->of == Goal::Of::kRatio && !ratio.has_value()) return std::nullopt;
  return FigureOf(goal->of) <= goal->at_most;
}

ComparisonResult Measure(const Comparison& comparison) {
  std::vector<Collected> warm_up(comparison.variants.size());
  TakeRound(comparison, 0, warm_up);
  std::vector<Collected> collected(comparison.variants.size());
  const auto start = std::chrono::steady_clock::now();
  unsigned round = 0;
  while (
      round < comparison.rounds &&
      (round < kLeastRounds || std::chrono::steady_clock::now() - start < comparison.time_limit)) {
    TakeRound(comparison, round++, collected);
  }
  ComparisonResult result{.name = comparison.name,
                          .what = comparison.what,
                          .rounds = round,
                          .unit = comparison.unit,
                          .sweep = comparison.sweep,
                          .variants = {}};
  for (size_t i = 0; i < comparison.variants.size(); ++i) {
    result.variants.push_back({.name = comparison.variants[i].name,
                               .figure = Summarize(collected[i].samples),
                               .round_medians = SpreadOf(collected[i].medians),
                               .ratio = collected[i].ratios.empty()
                                            ? std::nullopt
                                            : std::optional(SpreadOf(collected[i].ratios)),
                               .discarded = collected[i].discarded,
                               .goal = comparison.variants[i].goal});
  }
  return result;
}

}  // namespace underfoot::bench
