// How the kernel describes its tracepoints, and what is said where it does not.

#include "vmm/memory/tracefs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>

namespace underfoot {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

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

TEST(TraceFormatTest, WhatIsNoFormatIsRefused) {
  for (const char* text : {"", "ID:", "ID: x\n", "\tfield:int a;\toffset:0;\tsize:4;\n"}) {
    EXPECT_FALSE(ParseTraceFormat(text).ok()) << text;
  }
}

class TracefsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = ::testing::TempDir() + "tracefs-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string ErrorOf(const std::string& event) const {
    return std::string(ReadTraceEvent({root_ + "/nowhere", root_}, event).status().message());
  }

  std::string root_;
};

TEST_F(TracefsTest, TheFirstRootThatHasTheEventCounts) {
  std::filesystem::create_directories(root_ + "/events/kvm/a");
  std::ofstream(root_ + "/events/kvm/a/format") << kFormat;
  const auto event = ReadTraceEvent({root_ + "/nowhere", root_}, "kvm/a");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->id, 1127);
}

TEST_F(TracefsTest, NotMountedNotThereAndNotReadableAreToldApart) {
  EXPECT_THAT(ErrorOf("kvm/a"), AllOf(HasSubstr("not mounted"), HasSubstr("mount -t tracefs")));
  std::filesystem::create_directories(root_ + "/events/kvm");
  EXPECT_THAT(ErrorOf("kvm/a"), AllOf(HasSubstr("no event kvm/a"), HasSubstr("kvm module")));
  std::filesystem::create_directories(root_ + "/events/kvm/a");
  std::ofstream(root_ + "/events/kvm/a/format") << kFormat;
  ASSERT_EQ(chmod(root_.c_str(), 0), 0);
  if (geteuid() == 0 && seteuid(65534) != 0) GTEST_SKIP() << "cannot give up root";
  const std::string error = ErrorOf("kvm/a");
  if (getuid() == 0) {
    ASSERT_EQ(seteuid(0), 0);
  }
  ASSERT_EQ(chmod(root_.c_str(), 0700), 0);
  EXPECT_THAT(error, AllOf(HasSubstr("Permission denied"), HasSubstr("as root")));
}

}  // namespace
}  // namespace underfoot
