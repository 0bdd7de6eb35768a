// The machine's parts that need no guest: ports, reports, the boot data, errors of KVM itself.

#include "vmm/devices/platform.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "vmm/boot/boot.h"
#include "vmm/boot/guest_report.h"
#include "vmm/kvm/kvm.h"

namespace underfoot::testing {
namespace {

class Ports : public ::testing::Test {
 protected:
  void Write(unsigned vcpu, uint16_t port, std::string_view text, uint8_t size = 1) {
    std::vector<std::byte> data(text.size());
    std::memcpy(data.data(), text.data(), text.size());
    const PortIo io{.port = port,
                    .size = size,
                    .count = static_cast<uint32_t>(text.size() / size),
                    .write = true,
                    .data = data};
    EXPECT_EQ(platform_.OnPortIo(vcpu, io), ExitOutcome::kContinue);
  }
  uint8_t Read(uint16_t port) {
    std::byte data{0x55};
    const PortIo io{.port = port, .size = 1, .count = 1, .write = false, .data = {&data, 1}};
    EXPECT_EQ(platform_.OnPortIo(0, io), ExitOutcome::kContinue);
    return static_cast<uint8_t>(data);
  }
  void WriteVerdict(unsigned vcpu, uint32_t verdict) {
    std::array<char, 4> bytes;
    std::memcpy(bytes.data(), &verdict, 4);
    Write(vcpu, abi::kExitPort, {bytes.data(), 4}, 4);
  }

  std::vector<char> system_area_ = std::vector<char>(abi::kMmioDirectoryGpa);
  std::vector<std::pair<unsigned, std::string>> lines_;
  Platform platform_{2, HvaOf(system_area_.data()), [this](unsigned vcpu, std::string_view line) {
                       lines_.emplace_back(vcpu, std::string(line));
                     }};
};

TEST_F(Ports, SerialLinesOfTwoVcpusDoNotMix) {
  Write(0, abi::kSerialPort, "he");
  Write(1, abi::kSerialPort, "good");
  Write(0, abi::kSerialPort, "llo\r\nrest");
  Write(1, abi::kSerialPort, "bye\n");

  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0], std::make_pair(0u, std::string("hello")));
  EXPECT_EQ(lines_[1], std::make_pair(1u, std::string("goodbye")));
  platform_.serial().Flush();
  ASSERT_EQ(lines_.size(), 3u);
  EXPECT_EQ(lines_[2].second, "rest");
}

// The guest's count and the text are the guest's: neither leads out of the text of the vCPU.
TEST_F(Ports, ATextIsPrintedAtOnceAndNoLongerThanItMayBe) {
  const auto print = [this](unsigned vcpu, uint32_t bytes) {
    std::array<char, 4> count;
    std::memcpy(count.data(), &bytes, 4);
    Write(vcpu, abi::kTextPort, {count.data(), 4}, 4);
  };
  system_area_[abi::TextGpa(2)] = '!';
  std::memset(system_area_.data() + abi::TextGpa(1), 'x', abi::kTextBytes);
  std::memcpy(system_area_.data() + abi::TextGpa(0), "first\nsecond\nthird", 18);
  print(0, 13);
  print(1, UINT32_MAX);

  ASSERT_EQ(lines_.size(), 2u);
  EXPECT_EQ(lines_[0], std::make_pair(0u, std::string("first")));
  EXPECT_EQ(lines_[1], std::make_pair(0u, std::string("second")));
  platform_.serial().Flush();
  ASSERT_EQ(lines_.size(), 3u);
  EXPECT_EQ(lines_[2], std::make_pair(1u, std::string(abi::kTextBytes, 'x')));
}

TEST_F(Ports, SerialIsAlwaysReadyAndKeepsNoEndlessLine) {
  EXPECT_EQ(Read(abi::kSerialLineStatusPort), 0x60);
  Write(0, abi::kSerialPort, std::string(10000, 'x'));
  EXPECT_EQ(lines_.size(), 2u);
}

TEST_F(Ports, AnUnassignedPortReadsAsOnes) { EXPECT_EQ(Read(0x60), 0xff); }

// A thread that sleeps leaves the CPU of its own accord, one that yields does not.
TEST_F(Ports, AVcpuThatHasYieldedOftenSleeps) {
  constexpr int kTimes = 20;
  rusage before{};
  rusage after{};
  getrusage(RUSAGE_THREAD, &before);
  for (int i = 0; i < kTimes; ++i) Write(0, abi::kYieldPort, "\xff");
  getrusage(RUSAGE_THREAD, &after);
  EXPECT_GE(after.ru_nvcsw - before.ru_nvcsw, kTimes);
}

TEST_F(Ports, TheFirstVerdictOfEachVcpuCounts) {
  EXPECT_EQ(platform_.exit_device().overall(), std::nullopt);
  WriteVerdict(0, 0);
  EXPECT_FALSE(platform_.exit_device().WaitForAll(absl::ZeroDuration()));
  WriteVerdict(1, 1);
  WriteVerdict(1, 0);
  EXPECT_TRUE(platform_.exit_device().WaitForAll(absl::ZeroDuration()));
  EXPECT_EQ(platform_.exit_device().verdict(0), abi::Verdict::kGood);
  EXPECT_EQ(platform_.exit_device().verdict(1), abi::Verdict::kMismatch);
  EXPECT_EQ(platform_.exit_device().overall(), abi::Verdict::kMismatch);
}

TEST(Reports, AreSummedAndTheWorstIsShown) {
  const auto area = std::make_unique<std::array<uint64_t, abi::kPageTablesGpa / 8>>();
  const GuestReports reports(HvaOf(area->data()), 3);
  abi::Report report{};
  report.pages_checked = 5;
  for (uint64_t vcpu = 0; vcpu < 3; ++vcpu) {
    report.verdict = vcpu == 0 ? abi::Verdict::kAborted : abi::Verdict::kGood;
    report.mismatches = vcpu == 2 ? 7 : 0;
    report.first[0].gfn = vcpu;
    report.first[0].kind = abi::MismatchKind::kStale;
    std::memcpy(PointerOf(HvaOf(area->data()) + abi::ReportGpa(vcpu)), &report, sizeof(report));
  }

  const abi::Report total = reports.Total();
  EXPECT_EQ(total.pages_checked, 15u);
  EXPECT_EQ(total.mismatches, 7u);
  EXPECT_EQ(total.first[0].gfn, 2u);
  EXPECT_NE(Describe(total.first[0]).find("gfn 0x2 word 0"), std::string::npos);
  EXPECT_NE(Describe(total.first[0]).find("(stale)"), std::string::npos);
}

struct BadConfig {
  const char* name;
  BootConfig config;
  const char* message;
};

constexpr uint64_t kMiB = 1 << 20;

BootConfig WithRange(uint64_t gpa, uint64_t bytes,
                     abi::RangeKind kind = abi::RangeKind::kPrecious) {
  return {.memory_bytes = 64 * kMiB,
          .ranges = {{.gpa = 32 * kMiB, .bytes = kMiB, .kind = kind, .reserved = 0},
                     {.gpa = gpa, .bytes = bytes, .kind = kind, .reserved = 0}}};
}

TEST(BootConfigs, ThatMakeNoSenseAreRefusedByName) {
  const BadConfig bad[] = {
      {"no memory", {.memory_bytes = 0, .ranges = {}}, "from 16 MiB"},
      {"little memory", {.memory_bytes = 15 * kMiB, .ranges = {}}, "from 16 MiB"},
      {"much memory", {.memory_bytes = uint64_t{1} << 62, .ranges = {}}, "GiB"},
      {"odd memory", {.memory_bytes = 64 * kMiB + 1, .ranges = {}}, "whole pages"},
      {"no vcpu", {.memory_bytes = 64 * kMiB, .vcpus = 0, .ranges = {}}, "0 vCPUs"},
      {"many vcpus", {.memory_bytes = 64 * kMiB, .vcpus = 33, .ranges = {}}, "33 vCPUs"},
      {"in the system area", WithRange(8 * kMiB, kMiB), "system area"},
      {"beyond", WithRange(63 * kMiB, 2 * kMiB), "beyond the end"},
      {"wraps", WithRange(48 * kMiB, ~uint64_t{0xfff}), "beyond the end"},
      {"overlap", WithRange(31 * kMiB, 2 * kMiB), "overlaps"},
      {"unaligned", WithRange(48 * kMiB + 8, kMiB), "whole pages"},
      {"empty", WithRange(48 * kMiB, 0), "empty"},
      {"kind", WithRange(48 * kMiB, kMiB, abi::RangeKind{9}), "its kind"},
  };
  for (const BadConfig& one : bad) {
    const absl::Status status = CheckBootConfig(one.config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << one.name;
    EXPECT_NE(status.message().find(one.message), std::string::npos) << one.name << ": " << status;
  }
  EXPECT_TRUE(CheckBootConfig(WithRange(33 * kMiB, kMiB)).ok());
}

TEST(BootData, MapsAllMemoryOnToItselfForRing3) {
  constexpr uint64_t kMemory = (uint64_t{1} << 30) + 4 * kMiB;
  std::vector<std::byte> system(abi::kSystemAreaBytes);
  const BootConfig config{.memory_bytes = kMemory, .seed = 9, .ranges = {}};
  ASSERT_TRUE(WriteBootData(config, [&](Gpa gpa, std::span<const std::byte> bytes) {
                std::memcpy(system.data() + gpa.value, bytes.data(), bytes.size());
                return absl::OkStatus();
              }).ok());

  const auto entry = [&](uint64_t table, uint64_t index) {
    uint64_t value;
    std::memcpy(&value, system.data() + table + index * 8, 8);
    return value;
  };
  constexpr uint64_t kFrame = 0x000ffffffffff000;
  const auto leaf = [&](uint64_t gpa) {
    const uint64_t pointers = entry(abi::kPageTablesGpa, gpa >> 39 & 511) & kFrame;
    const uint64_t directory = entry(pointers, gpa >> 30 & 511) & kFrame;
    return directory == 0 ? 0 : entry(directory, gpa >> 21 & 511);
  };
  constexpr uint64_t kLargeUserWritablePresent = 0x87;
  for (uint64_t gpa = 0; gpa < kMemory; gpa += 2 * kMiB) {
    ASSERT_EQ(leaf(gpa) & kFrame, gpa);
    ASSERT_EQ(leaf(gpa) & kLargeUserWritablePresent, kLargeUserWritablePresent);
  }
  EXPECT_EQ(leaf(kMemory), 0u);
  abi::BootInfo info;
  std::memcpy(&info, system.data() + abi::kBootInfoGpa, sizeof(info));
  EXPECT_EQ(info.magic, abi::kMagic);
  EXPECT_EQ(info.seed, 9u);
}

TEST(KvmOpen, NamesTheRemedyWhenItCannot) {
  const auto missing = Kvm::Open("/nonexistent/kvm");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(missing.status().message().find("modprobe"), std::string::npos);
  const auto wrong = Kvm::Open("/dev/null");
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(wrong.status().message().find("/dev/null is not KVM"), std::string::npos);
}

TEST(KvmVendorName, IsUnknownWithoutAModule) { EXPECT_EQ(KvmVendor("/nonexistent"), "unknown"); }

}  // namespace
}  // namespace underfoot::testing
