// The options of a whole machine as the tests start it.
//
// Thread safety: a pure function, but for the host that it looks at.

#ifndef UNDERFOOT_TESTS_BOOT_MACHINE_OPTIONS_H_
#define UNDERFOOT_TESTS_BOOT_MACHINE_OPTIONS_H_

#include <gtest/gtest.h>

#include <string>

#include "vmm/churn/host_needs.h"
#include "vmm/config/run_options.h"

namespace underfoot::testing {

// `churn`: a specification, of which the kinds remain that this host can do with these options.
inline void SetChurn(const std::string& churn, RunOptions* options) {
  const absl::StatusOr<ChurnSpec> spec = ParseChurnSpec(churn);
  ASSERT_TRUE(spec.ok()) << spec.status();
  options->unavailable_churn = ProvideForChurn({options->backing, options->huge_pages},
                                               options->memory_bytes, spec->rates, nullptr)
                                   .unavailable;
  const absl::StatusOr<ChurnRates> rates = ResolveChurn(*spec, options->ChurnLimitsOfHost());
  ASSERT_TRUE(rates.ok()) << rates.status();
  options->churn = *spec;
  options->churn.rates = *rates;
}

inline RunOptions MachineOptions(const std::string& guest, Backing backing, uint32_t vcpus,
                                 const std::string& churn, HugePages huge_pages = HugePages::kOff) {
  RunOptions options;
  options.guest = guest;
  options.memory_bytes = uint64_t{48} << 20;
  options.vcpus = vcpus;
  options.backing = backing;
  options.huge_pages = huge_pages;
  options.seed = 7;
  options.name = "test";
  SetChurn(churn, &options);
  return options;
}

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_MACHINE_OPTIONS_H_
