// A churn specification, as an operator writes it:
//
//   off                           nothing is moved
//   mixed                         a preset: every kind, 2000 operations a second in all
//   storm                         a preset: the same kinds at 20000 operations a second in all
//   mixed:5000/s                  the preset's proportions, scaled to 5000 operations a second
//   discard:2000/s,memslot:20/s   these kinds, these rates, nothing else
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_CONFIG_CHURN_SPEC_H_
#define UNDERFOOT_VMM_CONFIG_CHURN_SPEC_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "vmm/config/churn_kind.h"
#include "vmm/config/churn_limits.h"

namespace underfoot {

// The limit for one kind. It is far above what a host can do, and small enough that an interval
// never rounds to zero.
inline constexpr double kMaxChurnRate = 1e6;

struct ChurnSpec {
  std::string text = "off";  // the text as the operator wrote it
  bool preset = false;       // its kinds depend on the limits, see ResolveChurn
  ChurnRates rates;          // empty means off

  [[nodiscard]] bool off() const { return rates.empty(); }
  // Operations per second of all kinds together.
  [[nodiscard]] double TotalRate() const;
};

// The error names the wrong part and lists the known names.
absl::StatusOr<ChurnSpec> ParseChurnSpec(std::string_view text);

// The rates that a machine with these limits runs. An impossible kind is refused if it was
// requested by name. A preset adds the share of an impossible kind to discard, so that the total
// stays the same; if discard is impossible too, to wp, or else the share is lost.
absl::StatusOr<ChurnRates> ResolveChurn(const ChurnSpec& spec, const ChurnLimits& limits);

// Formats rates as a spec that ParseChurnSpec can read: "discard:2000/s,memslot:20/s", or "off".
std::string ChurnSpecText(const ChurnRates& rates);

// Refuses rates that are negative, infinite or too high. Removes kinds with rate 0.
absl::StatusOr<ChurnRates> CheckChurnRates(ChurnRates rates);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONFIG_CHURN_SPEC_H_
