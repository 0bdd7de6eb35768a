// A churn specification as an operator types it:
//
//   off                           nothing is moved
//   mixed                         a preset: every kind, 2000 operations a second in all
//   storm                         a preset: the same kinds at 20000 operations a second in all
//   mixed:5000/s                  the preset's proportions, scaled to 5000 operations a second
//   discard:2000/s,memslot:20/s   these kinds, these rates, nothing else
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CHURN_SPEC_H_
#define UNDERFOOT_VMM_CHURN_SPEC_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "vmm/churn_kind.h"
#include "vmm/churn_limits.h"

namespace underfoot {

// Per kind. Far above what a host can do, and small enough that an interval never rounds to zero.
inline constexpr double kMaxChurnRate = 1e6;

struct ChurnSpec {
  std::string text = "off";  // as it was given
  bool preset = false;       // its kinds follow the limits, see ResolveChurn
  ChurnRates rates;          // empty means off

  [[nodiscard]] bool off() const { return rates.empty(); }
  // Operations a second of all kinds together.
  [[nodiscard]] double TotalRate() const;
};

// The error names the part that is wrong and lists what is known.
absl::StatusOr<ChurnSpec> ParseChurnSpec(std::string_view text);

// The rates that a machine with these limits runs. A kind that is impossible is refused when it was
// asked for by name; a preset gives its share to discard instead, so that the total stays.
absl::StatusOr<ChurnRates> ResolveChurn(const ChurnSpec& spec, const ChurnLimits& limits);

// Rates as a spec that ParseChurnSpec reads back: "discard:2000/s,memslot:20/s", or "off".
std::string ChurnSpecText(const ChurnRates& rates);

// Refuses negative, infinite and too high rates; kinds at rate 0 are dropped.
absl::StatusOr<ChurnRates> CheckChurnRates(ChurnRates rates);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_SPEC_H_
