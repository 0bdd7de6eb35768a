#include "tests/bench/comparison.h"

namespace underfoot::bench {
namespace {

// A discarded turn is taken again, so often in all.
constexpr unsigned kAttempts = 4;

// The median of a valid turn; nullopt when there was none.
std::optional<double> TakeTurn(const Variant& variant, bool smoke, VariantRounds& collected) {
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    Turn turn;
    variant.run(turn);
    if (turn.samples().empty() || (turn.discarded() && !smoke)) {
      ++collected.discarded;
      continue;
    }
    collected.samples.insert(collected.samples.end(), turn.samples().begin(), turn.samples().end());
    return Quantile(turn.samples(), 0.5);
  }
  return std::nullopt;
}

void TakeRound(const Comparison& comparison, unsigned round,
               std::vector<VariantRounds>& collected) {
  const std::vector<Variant>& variants = comparison.variants;
  std::vector<std::optional<double>> medians(variants.size());
  for (size_t i = 0; i < variants.size(); ++i) {
    const size_t turn = (i + round) % variants.size();
    medians[turn] = TakeTurn(variants[turn], comparison.smoke, collected[turn]);
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

Rounds TakeRounds(const Comparison& comparison) {
  if (!comparison.smoke) {
    std::vector<VariantRounds> warm_up(comparison.variants.size());
    TakeRound(comparison, 0, warm_up);
  }
  Rounds rounds;
  rounds.variants.resize(comparison.variants.size());
  const auto start = std::chrono::steady_clock::now();
  while (rounds.count < comparison.rounds &&
         (rounds.count < kLeastRounds ||
          std::chrono::steady_clock::now() - start < comparison.time_limit)) {
    TakeRound(comparison, rounds.count++, rounds.variants);
  }
  return rounds;
}

void Append(Rounds& rounds, const Rounds& more) {
  const auto append = [](std::vector<double>& to, const std::vector<double>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  rounds.count += more.count;
  for (size_t i = 0; i < rounds.variants.size(); ++i) {
    VariantRounds& variant = rounds.variants[i];
    append(variant.samples, more.variants[i].samples);
    append(variant.medians, more.variants[i].medians);
    append(variant.ratios, more.variants[i].ratios);
    variant.discarded += more.variants[i].discarded;
  }
}

ComparisonResult ResultOf(const Comparison& comparison, const Rounds& rounds) {
  ComparisonResult result{.name = comparison.name,
                          .what = comparison.what,
                          .unit = comparison.unit,
                          .sweep = comparison.sweep,
                          .variants = {}};
  for (const Variant& variant : comparison.variants) {
    result.variants.push_back({.name = variant.name, .goal = variant.goal});
  }
  Update(result, rounds);
  return result;
}

void Update(ComparisonResult& result, const Rounds& rounds) {
  result.rounds = rounds.count;
  for (size_t i = 0; i < result.variants.size(); ++i) {
    VariantResult& variant = result.variants[i];
    const VariantRounds& taken = rounds.variants[i];
    variant.figure = Summarize(taken.samples);
    variant.round_medians = SpreadOf(taken.medians);
    variant.ratio = std::nullopt;
    if (!taken.ratios.empty()) variant.ratio = SpreadOf(taken.ratios);
    variant.discarded = taken.discarded;
  }
}

}  // namespace underfoot::bench
