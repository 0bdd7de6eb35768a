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
      return ratio.median;
    case Goal::Of::kMedianNs:
      return ns.median;
    case Goal::Of::kP99Ns:
      return ns.p99;
  }
  return 0;
}

std::optional<bool> VariantResult::GoalMet() const {
  if (!goal.has_value() || ns.samples == 0) return std::nullopt;
  return FigureOf(goal->of) <= goal->at_most;
}

ComparisonResult Measure(const Comparison& comparison) {
  std::vector<Collected> warm_up(comparison.variants.size());
  TakeRound(comparison, 0, warm_up);
  std::vector<Collected> collected(comparison.variants.size());
  for (unsigned round = 0; round < comparison.rounds; ++round) {
    TakeRound(comparison, round, collected);
  }
  ComparisonResult result{comparison.name, comparison.what, comparison.rounds, {}};
  for (size_t i = 0; i < comparison.variants.size(); ++i) {
    result.variants.push_back({.name = comparison.variants[i].name,
                               .ns = Summarize(collected[i].samples),
                               .round_medians = SpreadOf(collected[i].medians),
                               .ratio = SpreadOf(collected[i].ratios),
                               .discarded = collected[i].discarded,
                               .goal = comparison.variants[i].goal});
  }
  return result;
}

}  // namespace underfoot::bench
