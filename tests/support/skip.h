// Skipping a test because this machine lacks something, and only where that is allowed.
//
// UNDERFOOT_SKIP("no /dev/kvm") skips with that reason; with UNDERFOOT_REQUIRE_KVM=1 in the
// environment (CI, and ./dev check where /dev/kvm exists) it fails instead, so that a machine that
// should run the boot tests cannot quietly run none. Where /dev/kvm opens, a skip has another
// reason: a right that this user lacks, or a feature that this kernel lacks. That is an ordinary
// skip, except for root in CI (CI=true), whose machine has everything. skipped.py has this rule
// too.
//
// UNDERFOOT_CHANGES_THE_HOST() at the head of a test that changes more than the test's own files
// and processes: it is skipped without UNDERFOOT_ALLOW_HOST_CHANGES=1 in the environment (CI has
// it). Its binary is SERIAL.

#ifndef UNDERFOOT_TESTS_SUPPORT_SKIP_H_
#define UNDERFOOT_TESTS_SUPPORT_SKIP_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace underfoot::testing {

inline bool EnvironmentHas(const char* name, std::string_view value) {
  const char* has = std::getenv(name);
  return has != nullptr && has == value;
}

inline bool SkippingIsAllowed() {
  if (!EnvironmentHas("UNDERFOOT_REQUIRE_KVM", "1")) return true;
  const bool has_everything = EnvironmentHas("CI", "true") && geteuid() == 0;
  return access("/dev/kvm", R_OK | W_OK) == 0 && !has_everything;
}

inline bool HostChangesAreAllowed() { return EnvironmentHas("UNDERFOOT_ALLOW_HOST_CHANGES", "1"); }

}  // namespace underfoot::testing

#define UNDERFOOT_SKIP(reason)                                                        \
  do {                                                                                \
    if (::underfoot::testing::SkippingIsAllowed()) GTEST_SKIP() << (reason);          \
    FAIL() << "would skip, but UNDERFOOT_REQUIRE_KVM=1 allows no skip: " << (reason); \
  } while (false)

#define UNDERFOOT_CHANGES_THE_HOST()                                                      \
  do {                                                                                    \
    if (!::underfoot::testing::HostChangesAreAllowed()) {                                 \
      GTEST_SKIP() << "changes this host; to let it, set UNDERFOOT_ALLOW_HOST_CHANGES=1"; \
    }                                                                                     \
  } while (false)

#endif  // UNDERFOOT_TESTS_SUPPORT_SKIP_H_
