// How the kernel describes its tracepoints, and what is said where it does not.

#include "vmm/host/tracefs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace underfoot {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kFormat[] =
    "name: kvm_unmap_hva_range\n"
    "ID: 1127\n"
    "format:\n"
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
    "\n"
    "\tfield:unsigned long start;\toffset:16;\tsize:8;\tsigned:0;\n"
    "\tfield:unsigned long end;\toffset:24;\tsize:8;\tsigned:0;\n"
    "\n"
    "print fmt: \"mmu notifier unmap range: %#016lx -- %#016lx\", REC->start, REC->end\n";

TEST(TraceFormatTest, OffsetsAreReadAndNotAssumed) {
  const absl::StatusOr<TraceEvent> event = ParseTraceFormat(kFormat);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->id, 1127);
  const absl::StatusOr<TraceField> end = event->Field("end");
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->offset, 24);
  std::array<std::byte, 32> raw{};
  raw[25] = std::byte{1};
  EXPECT_EQ(end->In(raw), 256);
  EXPECT_EQ(end->In(std::span(raw).first(31)), std::nullopt);
}

TEST(TraceFormatTest, AFieldThatIsNotThereIsNamed) {
  const absl::StatusOr<TraceEvent> event = ParseTraceFormat(kFormat);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_THAT(std::string(event->Field("hva").status().message()), HasSubstr("'hva'"));
  EXPECT_FALSE(event->Field("common_type").ok()) << "no number of 4 or 8 bytes";
}

TEST(TraceFormatTest, AnInvalidFormatIsRefused) {
  for (const char* text : {"", "ID:", "ID: x\n", "\tfield:int a;\toffset:0;\tsize:4;\n"}) {
    EXPECT_FALSE(ParseTraceFormat(text).ok()) << text;
  }
}

std::vector<std::string> MountsIn(const char* mountinfo) {
  std::istringstream file(mountinfo);
  return TracefsMounts(file);
}

TEST(TracefsMountsTest, AreFoundByTheirTypeAtAnyPlace) {
  EXPECT_THAT(MountsIn("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
                       "30 22 0:12 / /sys/kernel/tracing rw shared:9 - tracefs tracefs rw\n"
                       "31 22 0:12 / /a\\040b\\134c rw - tracefs nodev rw\n"),
              ElementsAre("/sys/kernel/tracing", "/a b\\c"));
}

TEST(TracefsMountsTest, APartOfATracefsAndOtherTypesAreNone) {
  EXPECT_THAT(MountsIn("31 22 0:12 /instances/a /trace rw - tracefs nodev rw\n"
                       "32 22 0:13 / /tracefs rw - tmpfs tracefs rw\n"
                       "33 22 0:14 / /short rw -\n"
                       "-\n\n34 tracefs\n"),
              IsEmpty());
}

// A folder of the test's own takes the place of tracefs, by a mountinfo of the test's own.
class TracefsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "tracefs-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    scratch_ = name;
    root_ = scratch_ + "/tracing";
    std::filesystem::create_directories(root_);
    std::ofstream(mountinfo()) << "30 22 0:12 / " << scratch_
                               << "/nowhere rw - tracefs tracefs rw\n"
                               << "31 22 0:12 / " << root_ << " rw - tracefs nodev rw\n";
    ASSERT_EQ(chmod(scratch_.c_str(), 0755), 0);
  }
  void TearDown() override { std::filesystem::remove_all(scratch_); }

  std::string mountinfo() const { return scratch_ + "/mountinfo"; }
  absl::StatusOr<TraceEvent> Read(const std::string& event) const {
    const absl::StatusOr<Tracefs> tracefs = Tracefs::Open(mountinfo());
    if (!tracefs.ok()) return tracefs.status();
    return tracefs->ReadEvent(event);
  }
  std::string ErrorOf(const std::string& event) const {
    return std::string(Read(event).status().message());
  }
  // As a user without rights.
  void ErrorWithoutRights(std::string& error) const {
    if (geteuid() == 0 && seteuid(65534) != 0) GTEST_SKIP() << "cannot give up root";
    error = ErrorOf("kvm/a");
    if (getuid() == 0) {
      ASSERT_EQ(seteuid(0), 0);
    }
  }

  std::string scratch_;
  std::string root_;
};

TEST_F(TracefsTest, TheFirstMountThatHasEventsCounts) {
  std::filesystem::create_directories(root_ + "/events/kvm/a");
  std::ofstream(root_ + "/events/kvm/a/format") << kFormat;
  const auto event = Read("kvm/a");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->id, 1127);
}

TEST_F(TracefsTest, AnEventThatIsNotThereAndOneThatIsNotReadableAreDistinguished) {
  std::filesystem::create_directories(root_ + "/events/kvm");
  EXPECT_THAT(ErrorOf("kvm/a"), AllOf(HasSubstr("no event kvm/a"), HasSubstr("kvm module")));
  std::filesystem::create_directories(root_ + "/events/kvm/a");
  std::ofstream(root_ + "/events/kvm/a/format") << kFormat;
  ASSERT_EQ(chmod((root_ + "/events/kvm/a/format").c_str(), 0), 0);
  std::string error;
  ErrorWithoutRights(error);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_THAT(error, AllOf(HasSubstr("Permission denied"), HasSubstr("as root")));
}

TEST_F(TracefsTest, AMountThatMayNotBeReadIsNamed) {
  std::filesystem::create_directories(root_ + "/events");
  ASSERT_EQ(chmod(root_.c_str(), 0), 0);
  std::string error;
  ErrorWithoutRights(error);
  ASSERT_EQ(chmod(root_.c_str(), 0700), 0);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_THAT(error, AllOf(HasSubstr(root_), HasSubstr("as root"), Not(HasSubstr("mount -t"))));
}

std::string MountsOfThisProcess() {
  std::ifstream file("/proc/self/mountinfo");
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_F(TracefsTest, WithoutAnyMountADetachedOneIsReadAndNothingIsMounted) {
  std::ofstream(mountinfo(), std::ios::trunc);
  const std::string before = MountsOfThisProcess();
  const absl::StatusOr<Tracefs> tracefs = Tracefs::Open(mountinfo());
  if (absl::IsPermissionDenied(tracefs.status())) GTEST_SKIP() << tracefs.status().message();
  if (absl::IsFailedPrecondition(tracefs.status())) GTEST_SKIP() << tracefs.status().message();
  ASSERT_TRUE(tracefs.ok()) << tracefs.status();
  EXPECT_THAT(tracefs->name(), ::testing::HasSubstr("mounted nowhere"));
  // Tracepoints of the scheduler are in every kernel that has tracefs and events.
  const auto event = tracefs->ReadEvent("sched/sched_switch");
  EXPECT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(MountsOfThisProcess(), before);
}

TEST_F(TracefsTest, WithoutAnyMountAndWithoutRightsTheRemedyIsNoMount) {
  std::ofstream(mountinfo(), std::ios::trunc);
  std::string error;
  ErrorWithoutRights(error);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_THAT(error, AllOf(HasSubstr("no tracefs is mounted"), HasSubstr("as root"),
                           Not(HasSubstr("mount -t"))));
}

}  // namespace
}  // namespace underfoot
