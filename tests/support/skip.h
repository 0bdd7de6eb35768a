// Skipping a test because this machine lacks something, and only where that is allowed.
//
// UNDERFOOT_SKIP("no /dev/kvm") skips with that reason; with UNDERFOOT_REQUIRE_KVM=1 in the
// environment (CI, and ./dev check where /dev/kvm exists) it fails instead, so that a machine that
// should run the boot tests cannot quietly run none.

#ifndef UNDERFOOT_TESTS_SUPPORT_SKIP_H_
#define UNDERFOOT_TESTS_SUPPORT_SKIP_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

namespace underfoot::testing {

inline bool SkippingIsAllowed() {
  const char* require = std::getenv("UNDERFOOT_REQUIRE_KVM");
  return require == nullptr || std::string_view(require) != "1";
}

}  // namespace underfoot::testing

#define UNDERFOOT_SKIP(reason)                                                        \
  do {                                                                                \
    if (::underfoot::testing::SkippingIsAllowed()) GTEST_SKIP() << (reason);          \
    FAIL() << "would skip, but UNDERFOOT_REQUIRE_KVM=1 allows no skip: " << (reason); \
  } while (false)

#endif  // UNDERFOOT_TESTS_SUPPORT_SKIP_H_
