// Death tests of this binary start a program of their own instead of forking this one, in which
// liburcu's worker may be running.

#include <gtest/gtest.h>

namespace underfoot::testing {
namespace {

class DeathTestStyle : public ::testing::Environment {
  void SetUp() override { ::testing::GTEST_FLAG(death_test_style) = "threadsafe"; }
};

// gtest owns it.
[[maybe_unused]] const auto* const kDeathTestStyle =
    ::testing::AddGlobalTestEnvironment(new DeathTestStyle);

}  // namespace
}  // namespace underfoot::testing
