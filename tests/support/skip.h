// Skipping a test because this machine lacks something, and only where that is allowed.
//
// UNDERFOOT_SKIP("no /dev/kvm") skips with that reason; with UNDERFOOT_REQUIRE_KVM=1 in the
// environment (CI, and ./dev check where /dev/kvm exists) it fails instead, so that a machine that
// should run the boot tests cannot quietly run none.
//
// UNDERFOOT_CHANGES_THE_HOST() at the head of a test that changes more than the test's own files
// and processes: it is skipped without UNDERFOOT_ALLOW_HOST_CHANGES=1 in the environment (CI has
// it). Its binary is SERIAL.

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

inline bool HostChangesAreAllowed() {
  const char* allow = std::getenv("UNDERFOOT_ALLOW_HOST_CHANGES");
  return allow != nullptr && std::string_view(allow) == "1";
}

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
