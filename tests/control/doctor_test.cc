// The doctor: what it says when something is away, and that it says something useful each time.

#include "vmm/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/control/scratch.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

const DoctorCheck& Find(const DoctorReport& report, const std::string& name) {
  for (const DoctorCheck& check : report.checks) {
    if (check.name == name) return check;
  }
  ADD_FAILURE() << "no check " << name;
  return report.checks.front();
}

TEST(DoctorTest, ChecksEverythingInOrderAndExplainsWhatIsNotOk) {
  const DoctorReport report = RunDoctor();
  std::vector<std::string> names;
  for (const DoctorCheck& check : report.checks) {
    names.push_back(check.name);
    EXPECT_FALSE(check.found.empty()) << check.name;
    EXPECT_EQ(check.result == CheckResult::kOk, check.cost.empty()) << check.name;
    EXPECT_EQ(check.result == CheckResult::kOk, check.remedy.empty()) << check.name;
  }
  EXPECT_THAT(names, ElementsAre("kvm", "userfaultfd", "privileges", "pagemap", "tracepoints",
                                 "membarrier", "memfd", "memory", "cores", "host-changes"));
}

TEST(DoctorTest, WithoutTheDeviceNothingCanRun) {
  const Scratch scratch;
  const DoctorReport report = RunDoctor({.dev_kvm = scratch / "kvm"});
  EXPECT_FALSE(report.CanRun());
  const DoctorCheck& kvm = Find(report, "kvm");
  EXPECT_EQ(kvm.result, CheckResult::kMissing);
  EXPECT_THAT(kvm.found, AllOf(HasSubstr(scratch / "kvm"), HasSubstr("No such file")));
  EXPECT_THAT(kvm.remedy, HasSubstr("kvm_intel"));
}

TEST(DoctorTest, AFileThatIsNoKvmIsMissingToo) {
  const Scratch scratch;
  std::ofstream(scratch / "kvm") << "x";
  const DoctorReport report = RunDoctor({.dev_kvm = scratch / "kvm"});
  EXPECT_EQ(Find(report, "kvm").result, CheckResult::kMissing);
  EXPECT_THAT(Find(report, "kvm").found, HasSubstr("API version -1"));
}

TEST(DoctorTest, WhatOnlyCostsSomethingDoesNotStopARun) {
  const Scratch scratch;
  const DoctorReport report = RunDoctor({.proc = scratch.path(), .tracefs = {scratch / "nowhere"}});
  EXPECT_EQ(Find(report, "pagemap").result, CheckResult::kLess);
  EXPECT_EQ(Find(report, "memory").result, CheckResult::kLess);
  EXPECT_EQ(Find(report, "tracepoints").result, CheckResult::kLess);
  EXPECT_THAT(Find(report, "tracepoints").remedy, HasSubstr("mount -t tracefs"));
}

TEST(DoctorTest, ATracefsThatMayNotBeReadIsNotTakenForOneThatIsNotMounted) {
  const Scratch scratch;
  const std::string root = scratch / "tracing";
  ASSERT_EQ(mkdir(root.c_str(), 0700), 0);
  ASSERT_EQ(mkdir((root + "/events").c_str(), 0700), 0);
  EXPECT_THAT(Find(RunDoctor({.tracefs = {root}}), "tracepoints").found,
              HasSubstr("no readable kvm/kvm_unmap_hva_range"));
  ASSERT_EQ(chmod(root.c_str(), 0), 0);
  if (geteuid() == 0 && seteuid(65534) != 0) GTEST_SKIP() << "cannot give up root";
  const DoctorCheck check = Find(RunDoctor({.tracefs = {root}}), "tracepoints");
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
  ASSERT_EQ(chmod(root.c_str(), 0700), 0);
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.found, HasSubstr("may not be read"));
  EXPECT_THAT(check.remedy, AllOf(HasSubstr("as root"), Not(HasSubstr("mount"))));
}

TEST(DoctorTest, TheTextHasALineACheckAndTheRemedyUnderWhatIsNotOk) {
  const DoctorReport report{.checks = {{"kvm", CheckResult::kOk, "fine", "", ""},
                                       {"cores", CheckResult::kLess, "1", "races", "more"}}};
  EXPECT_EQ(DoctorText(report),
            "ok       kvm          fine\n"
            "less     cores        1\n"
            "                      lost:   races\n"
            "                      remedy: more\n"
            "\n"
            "underfoot run can work here.\n");
  EXPECT_EQ(DoctorWarnings(report), "cores: 1; lost: races; remedy: more\n");
  const DoctorReport broken{.checks = {{"kvm", CheckResult::kMissing, "a", "b", "c"}}};
  EXPECT_THAT(DoctorText(broken), HasSubstr("underfoot run cannot work here"));
}

TEST(DoctorTest, TheJsonSaysTheSame) {
  const DoctorReport report{.checks = {{"kvm", CheckResult::kMissing, "a", "b", "c"}}};
  EXPECT_EQ(nlohmann::json::parse(DoctorJson(report)), nlohmann::json::parse(R"({"can_run": false,
    "checks": [{"name": "kvm", "result": "missing", "found": "a", "cost": "b", "remedy": "c"}]})"));
}

}  // namespace
}  // namespace underfoot::testing
