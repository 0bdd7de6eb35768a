// The doctor: what it says when something is away, and that it says something useful each time.

#include "vmm/cli/doctor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>

#include "tests/control/scratch.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

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
  EXPECT_THAT(names, ElementsAre("kvm", "linux-guests", "userfaultfd", "privileges", "pagemap",
                                 "tracepoints", "membarrier", "memfd", "memory", "huge-pages",
                                 "cores", "host-changes"));
}

TEST(DoctorTest, WithoutTheDeviceNothingCanRun) {
  const Scratch scratch;
  const DoctorReport report = RunDoctor({.dev_kvm = scratch / "kvm"});
  EXPECT_FALSE(report.CanRun());
  const DoctorCheck& kvm = Find(report, "kvm");
  EXPECT_EQ(kvm.result, CheckResult::kMissing);
  EXPECT_THAT(kvm.found, AllOf(HasSubstr(scratch / "kvm"), HasSubstr("No such file")));
  EXPECT_THAT(kvm.remedy, AllOf(HasSubstr("kvm_intel"), HasSubstr("./dev demo")));
}

TEST(DoctorTest, AFileThatIsNotKvmCountsAsMissing) {
  const Scratch scratch;
  std::ofstream(scratch / "kvm") << "x";
  const DoctorReport report = RunDoctor({.dev_kvm = scratch / "kvm"});
  EXPECT_EQ(Find(report, "kvm").result, CheckResult::kMissing);
  EXPECT_THAT(Find(report, "kvm").found, HasSubstr("API version -1"));
}

TEST(DoctorTest, AMissingOptionalFeatureDoesNotPreventARun) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "self");
  std::ofstream(scratch / "self/pagemap") << "x";
  const DoctorReport report = RunDoctor({.proc = scratch.path()});
  EXPECT_EQ(Find(report, "pagemap").result, CheckResult::kLess);
  EXPECT_EQ(Find(report, "memory").result, CheckResult::kLess);
  EXPECT_TRUE(report.CanRun() || Find(report, "kvm").result == CheckResult::kMissing ||
              Find(report, "userfaultfd").result == CheckResult::kMissing);
}

TEST(DoctorTest, WithoutProcNothingCanRun) {
  const Scratch scratch;
  const DoctorCheck pagemap = Find(RunDoctor({.proc = scratch.path()}), "pagemap");
  EXPECT_EQ(pagemap.result, CheckResult::kMissing);
  EXPECT_THAT(pagemap.found, HasSubstr(scratch / "self/pagemap: No such file"));
  EXPECT_THAT(pagemap.remedy, HasSubstr("mount -t proc"));
  EXPECT_FALSE(CheckNeeds({.proc = scratch.path()}).CanRun())
      << "`run` refuses for the same reason";
}

// Both kinds of hierarchy. The limit may be that of a group above the own one.
TEST(DoctorTest, TheMemoryThatAMemoryCgroupLeavesIsWhatIsAvailable) {
  for (const auto& [line, limit, usage, cache] :
       {std::tuple{"0::/a/b\n", "cgroup/a/memory.max", "cgroup/a/memory.current",
                   "cgroup/a/memory.stat"},
        std::tuple{"3:cpu:/\n4:memory:/a/b\n0::/\n", "cgroup/memory/a/memory.limit_in_bytes",
                   "cgroup/memory/a/memory.usage_in_bytes", "cgroup/memory/a/memory.stat"}}) {
    const Scratch scratch;
    std::filesystem::create_directories(scratch / "self");
    std::filesystem::create_directories(
        std::filesystem::path(scratch / std::string(limit)).parent_path() / "b");
    const DoctorPaths paths{.proc = scratch.path(), .cgroup = scratch / "cgroup"};
    EXPECT_EQ(AvailableBytes(paths), std::nullopt);
    std::ofstream(scratch / "meminfo") << "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n";
    std::ofstream(scratch / "self/cgroup") << line;
    EXPECT_EQ(AvailableBytes(paths), uint64_t{8000000} << 10) << "no limit";
    std::ofstream(scratch / std::string(limit)) << (60 << 20) << "\n";
    std::ofstream(scratch / std::string(usage)) << (30 << 20) << "\n";
    std::ofstream(scratch / std::string(cache))
        << "inactive_file 10485760\ntotal_inactive_file 10485760\nanon 5\n";
    EXPECT_EQ(AvailableBytes(paths), uint64_t{40} << 20) << line;
    EXPECT_THAT(Find(RunDoctor(paths), "memory").found,
                HasSubstr("40 MiB available in its memory cgroup, of 7812 MiB on the host"));
  }
}

TEST(DoctorTest, AKvmThatCannotRunLinuxCostsLinuxGuestsOnly) {
  const Scratch scratch;
  std::filesystem::create_directories(scratch / "kvm_pvm");
  EXPECT_EQ(Find(RunDoctor({.sys_module = scratch.path()}), "linux-guests").result,
            CheckResult::kLess);
  std::filesystem::create_directories(scratch / "kvm_amd");
  EXPECT_EQ(Find(RunDoctor({.sys_module = scratch.path()}), "linux-guests").result,
            CheckResult::kOk);
}

// A folder of the test's own takes the place of tracefs, by a mountinfo of the test's own.
class DoctorTracepointsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(root_ + "/events/kvm/kvm_unmap_hva_range");
    std::ofstream(mountinfo_) << "36 35 0:12 / " << root_ << " rw - tracefs nodev rw\n";
  }
  DoctorCheck Check() const {
    return Find(RunDoctor({.proc = scratch_.path(), .mountinfo = mountinfo_}), "tracepoints");
  }
  // As a user without rights; `check` is not called where this process cannot become one.
  void CheckWithoutRights(DoctorCheck& check) {
    if (geteuid() == 0 && seteuid(65534) != 0) GTEST_SKIP() << "cannot give up root";
    check = Check();
    if (getuid() == 0) {
      ASSERT_EQ(seteuid(0), 0);
    }
  }

  const Scratch scratch_;
  const std::string root_ = scratch_ / "tracing";
  const std::string mountinfo_ = scratch_ / "mountinfo";
};

TEST_F(DoctorTracepointsTest, AnEventThatTheKernelDoesNotHaveIsNamed) {
  const DoctorCheck check = Check();
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.found, AllOf(HasSubstr(root_), HasSubstr("kvm_unmap_hva_range")));
  EXPECT_THAT(check.remedy, AllOf(HasSubstr("kvm module"), Not(HasSubstr("mount"))));
}

TEST_F(DoctorTracepointsTest, ATracefsAtAnyPlaceIsFound) {
  std::ofstream(root_ + "/events/kvm/kvm_unmap_hva_range/format") << "ID: 1127\n";
  std::filesystem::create_directories(scratch_ / "sys/kernel");
  std::ofstream(scratch_ / "sys/kernel/perf_event_paranoid") << "-1\n";
  const DoctorCheck check = Check();
  EXPECT_EQ(check.result, CheckResult::kOk);
  EXPECT_THAT(check.found, AllOf(HasSubstr(root_), HasSubstr("1127")));
}

TEST_F(DoctorTracepointsTest, ATracefsThatMayNotBeReadNeedsRootAndNoMount) {
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
  ASSERT_EQ(chmod(root_.c_str(), 0), 0);
  DoctorCheck check;
  CheckWithoutRights(check);
  ASSERT_EQ(chmod(root_.c_str(), 0700), 0);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.found, AllOf(HasSubstr(root_), HasSubstr("Permission denied")));
  EXPECT_THAT(check.remedy, AllOf(HasSubstr("as root"), Not(HasSubstr("mount"))));
}

TEST_F(DoctorTracepointsTest, WithoutAMountAndWithoutTheRightToMakeOneRootIsTheRemedy) {
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0755), 0);
  std::ofstream(mountinfo_, std::ios::trunc);
  DoctorCheck check;
  CheckWithoutRights(check);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.found, HasSubstr("no tracefs is mounted"));
  EXPECT_THAT(check.remedy, AllOf(HasSubstr("as root"), Not(HasSubstr("mount"))));
}

TEST(DoctorTest, TheHugePagesOfTheHostAreCountedAndNeverStopARun) {
  const Scratch scratch;
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(scratch / path).parent_path());
    std::ofstream(scratch / path) << text << "\n";
  };
  write("thp/enabled", "always madvise [never]");
  write("thp/shmem_enabled", "always within_size [advise] never deny force");
  write("hugetlb/hugepages-2048kB/nr_hugepages", "7");
  write("hugetlb/hugepages-2048kB/free_hugepages", "5");
  write("hugetlb/hugepages-2048kB/resv_hugepages", "1");
  DoctorPaths paths;
  paths.huge_pages = {.thp = scratch / "thp", .hugetlb = scratch / "hugetlb"};
  const DoctorReport report = RunDoctor(paths);
  const DoctorCheck& check = Find(report, "huge-pages");
  EXPECT_EQ(check.found,
            "THP never, of shared memory advise; hugetlb 2M: 7 reserved, 4 free; 1G: none");
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.cost, HasSubstr("--huge-pages thp"));
  EXPECT_THAT(check.remedy, HasSubstr("echo madvise"));
  write("thp/enabled", "always [madvise] never");
  EXPECT_EQ(Find(RunDoctor(paths), "huge-pages").result, CheckResult::kOk);
}

TEST(DoctorTest, AJournalOfHostChangesThatCannotBeReadIsReported) {
  const Scratch scratch;
  std::ofstream(scratch / "changes.json") << "{";
  DoctorPaths paths;
  paths.host_changes = {.journal = scratch.path(), .swap_files = scratch.path()};
  const DoctorCheck check = Find(RunDoctor(paths), "host-changes");
  EXPECT_EQ(check.result, CheckResult::kLess);
  EXPECT_THAT(check.found, HasSubstr("changes.json"));
  EXPECT_THAT(check.remedy, HasSubstr("as root"));
}

TEST(DoctorTest, TheTextBeginsWithTheAnswerAndNamesARemedyForEachCheckThatIsNotOk) {
  const DoctorReport report{.checks = {{"kvm", CheckResult::kOk, "fine", "", ""},
                                       {"cores", CheckResult::kLess, "1", "races", "more"}}};
  EXPECT_EQ(DoctorText(report),
            "can work here: yes, with less of: cores\n"
            "\n"
            "less     cores        1\n"
            "                      lost:   races\n"
            "                      remedy: more\n"
            "ok       kvm          fine\n");
  EXPECT_EQ(DoctorWarnings(report), "cores: 1; lost: races; remedy: more\n");
  EXPECT_EQ(DoctorWarnings({.checks = {report.checks.back(), report.checks.back()}}, "run: "),
            "run: cores: 1; lost: races; remedy: more\n"
            "run: cores: 1; lost: races; remedy: more\n");
  const DoctorReport whole{.checks = {{"kvm", CheckResult::kOk, "fine", "", ""}}};
  EXPECT_THAT(DoctorText(whole), StartsWith("can work here: yes\n\nok "));
  const DoctorReport broken{.checks = {{"kvm", CheckResult::kMissing, "a", "b", "c"}}};
  EXPECT_THAT(DoctorText(broken), StartsWith("can work here: no; missing: kvm\n\nmissing  kvm"));
}

TEST(DoctorTest, TheJsonHasTheSameFindings) {
  const DoctorReport report{.checks = {{"kvm", CheckResult::kMissing, "a", "b", "c"}}};
  EXPECT_EQ(nlohmann::json::parse(DoctorJson(report)), nlohmann::json::parse(R"({"can_run": false,
    "checks": [{"name": "kvm", "result": "missing", "found": "a", "cost": "b", "remedy": "c"}]})"));
}

}  // namespace
}  // namespace underfoot::testing
