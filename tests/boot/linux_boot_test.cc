// What a kernel finds at its start, byte by byte, and kernels that cannot be started.

#include "vmm/boot/linux_boot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/boot/kernel_image.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/pc_layout.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMemory = uint64_t{128} << 20;

class LinuxBootTest : public ::testing::Test {
 protected:
  absl::StatusOr<LinuxStart> Load(const std::vector<std::byte>& kernel) {
    boot_.kernel = kernel;
    boot_.initrd = initrd_;
    return LoadLinux(boot_, [this](Gpa gpa, std::span<const std::byte> bytes) {
      return ram_.Write(gpa, bytes);
    });
  }
  // The error, after which nothing may have been written.
  std::string Error(const std::vector<std::byte>& kernel) {
    const absl::StatusOr<LinuxStart> start = Load(kernel);
    EXPECT_FALSE(start.ok());
    EXPECT_TRUE(absl::IsInvalidArgument(start.status())) << start.status();
    EXPECT_EQ(ram_.writes(), 0) << start.status();
    return std::string(start.status().message());
  }

  FakeRam ram_{kMemory};
  std::vector<std::byte> initrd_;
  LinuxBoot boot_{.kernel = {}, .initrd = {}, .command_line = "quiet", .memory_bytes = kMemory};
};

TEST_F(LinuxBootTest, ABzImageIsLoadedWhereItPrefersToBeAndEnteredAt0x200) {
  const std::vector<std::byte> file = BzImageFile().Bytes();
  const auto start = Load(file);
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->entry, LinuxEntry::k64Bit);
  EXPECT_EQ(start->code.value, 0x1000200u);
  EXPECT_EQ(start->information, pc::kBootParams);
  EXPECT_TRUE(std::ranges::equal(ram_.At({0x1000000}, BzImageFile::kKernelBytes),
                                 std::span(file).subspan(BzImageFile::kKernelAt)));
}

TEST_F(LinuxBootTest, BootParamsHaveTheHeaderOfTheFileTheMemoryMapAndTheTables) {
  initrd_.assign(5000, std::byte{0x5a});
  ASSERT_TRUE(Load(BzImageFile().Bytes()).ok());
  const auto params = ram_.Read<boot_params>(pc::kBootParams);
  EXPECT_EQ(uint32_t{params.hdr.header}, 0x53726448u);
  EXPECT_EQ(uint32_t{params.hdr.init_size}, 0x2000000u);
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(params.sentinel, 0);
  EXPECT_EQ(uint32_t{params.hdr.cmd_line_ptr}, pc::kCommandLine.value);
  EXPECT_EQ(ram_.Text(pc::kCommandLine), "quiet");
  EXPECT_EQ(uint64_t{params.acpi_rsdp_addr}, pc::kAcpiTables.value);
  EXPECT_EQ(std::memcmp(ram_.At(pc::kAcpiTables, 8).data(), "RSD PTR ", 8), 0);

  ASSERT_EQ(params.e820_entries, 3);
  const auto expect_entry = [&](int i, uint64_t gpa, uint64_t bytes, uint32_t type) {
    EXPECT_EQ(uint64_t{params.e820_table[i].addr}, gpa);
    EXPECT_EQ(uint64_t{params.e820_table[i].size}, bytes);
    EXPECT_EQ(uint32_t{params.e820_table[i].type}, type);
  };
  expect_entry(0, 0, 0x9fc00, 1);
  expect_entry(1, 0x9fc00, 0x60400, 2);
  expect_entry(2, 0x100000, kMemory - 0x100000, 1);
}

TEST_F(LinuxBootTest, TheInitrdEndsWhereMemoryOrTheKernelsLimitEnds) {
  initrd_.assign(5000, std::byte{0x5a});
  ASSERT_TRUE(Load(BzImageFile().Bytes()).ok());
  auto params = ram_.Read<boot_params>(pc::kBootParams);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, kMemory - 0x2000);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_size}, 5000u);
  EXPECT_TRUE(std::ranges::equal(ram_.At({kMemory - 0x2000}, 5000), initrd_));

  BzImageFile low;
  low.header.initrd_addr_max = 0x37fffff;
  ASSERT_TRUE(Load(low.Bytes()).ok());
  params = ram_.Read<boot_params>(pc::kBootParams);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, 0x3800000u - 0x2000);
}

TEST_F(LinuxBootTest, ThePageTablesMapTheFirst4GiBToThemselves) {
  ASSERT_TRUE(Load(BzImageFile().Bytes()).ok());
  for (const uint64_t gpa : {uint64_t{0}, uint64_t{0x1000200}, (uint64_t{4} << 30) - 1}) {
    uint64_t table = pc::kPageTables.value;
    for (const int shift : {39, 30}) {
      const auto entry = ram_.Read<uint64_t>(Gpa{table + (gpa >> shift & 511) * 8});
      ASSERT_EQ(entry & 0xfff, 3u);
      table = entry & ~uint64_t{0xfff};
    }
    const auto leaf = ram_.Read<uint64_t>(Gpa{table + (gpa >> 21 & 511) * 8});
    EXPECT_EQ(leaf, (gpa & ~uint64_t{0x1fffff}) | 0x83);
  }
}

TEST_F(LinuxBootTest, AVmlinuxIsEnteredWhereItsNoteSays) {
  initrd_.assign(100, std::byte{0x5a});
  const auto start = Load(VmlinuxFile().Bytes());
  ASSERT_TRUE(start.ok()) << start.status();
  EXPECT_EQ(start->entry, LinuxEntry::kPvh);
  EXPECT_EQ(start->code.value, VmlinuxFile::kEntry);
  EXPECT_EQ(ram_.Read<uint8_t>({VmlinuxFile::kCode + 5}), 15);

  const Gpa info = start->information;
  EXPECT_EQ(ram_.Read<uint32_t>(info), 0x336ec578u);
  EXPECT_EQ(ram_.Read<uint32_t>(info + 4), 1u);
  EXPECT_EQ(ram_.Read<uint32_t>(info + 12), 1u);  // modules
  const Gpa module{ram_.Read<uint64_t>(info + 16)};
  EXPECT_EQ(ram_.Read<uint64_t>(module), kMemory - 0x1000);
  EXPECT_EQ(ram_.Read<uint64_t>(module + 8), 100u);
  EXPECT_EQ(ram_.Text({ram_.Read<uint64_t>(info + 24)}), "quiet");
  EXPECT_EQ(ram_.Read<uint64_t>(info + 32), pc::kAcpiTables.value);
  const Gpa map{ram_.Read<uint64_t>(info + 40)};
  ASSERT_EQ(ram_.Read<uint32_t>(info + 48), 3u);
  EXPECT_EQ(ram_.Read<uint64_t>(map + 2 * 24), 0x100000u);
  EXPECT_EQ(ram_.Read<uint64_t>(map + 2 * 24 + 8), kMemory - 0x100000);
  EXPECT_EQ(ram_.Read<uint32_t>(map + 2 * 24 + 16), 1u);
}

TEST_F(LinuxBootTest, AKernelThatCannotBeStartedIsRefusedWithTheReason) {
  EXPECT_THAT(Error({}), HasSubstr("0 bytes, less than"));
  EXPECT_THAT(Error(std::vector<std::byte>(8192)), HasSubstr("no boot header (HdrS)"));
  BzImageFile old;
  old.header.version = 0x020b;
  EXPECT_THAT(Error(old.Bytes()), HasSubstr("boot protocol 2.11; 2.12 or later"));
  BzImageFile narrow;
  narrow.header.xloadflags = 0;
  EXPECT_THAT(Error(narrow.Bytes()), HasSubstr("a 32-bit kernel"));
  BzImageFile low;
  low.header.loadflags = 0;
  EXPECT_THAT(Error(low.Bytes()), HasSubstr("zImage"));
  BzImageFile jump;
  jump.header.jump = 0x02eb;
  EXPECT_THAT(Error(jump.Bytes()), HasSubstr("setup header ends at 0x204"));
  BzImageFile small;
  small.header.init_size = 16;
  EXPECT_THAT(Error(small.Bytes()), HasSubstr("0x10 bytes of memory are enough"));
  BzImageFile high;
  high.header.pref_address = uint64_t{1} << 40;
  EXPECT_THAT(Error(high.Bytes()), HasSubstr("wants to be loaded at gpa 0x10000000000"));
  std::vector<std::byte> cut = BzImageFile().Bytes();
  cut.pop_back();
  EXPECT_THAT(Error(cut), HasSubstr("truncated?"));
  VmlinuxFile no_note;
  no_note.note_type = 17;
  EXPECT_THAT(Error(no_note.Bytes()),
              AllOf(HasSubstr("no note XEN_ELFNOTE_PHYS32_ENTRY"), HasSubstr("CONFIG_PVH=y")));
  VmlinuxFile outside;
  outside.entry = 0x5000;
  EXPECT_THAT(Error(outside.Bytes()), HasSubstr("its PVH entry 0x5000 lies outside"));
}

TEST_F(LinuxBootTest, TheLastConsoleOfTheCommandLineSaysWhichTerminalIsTheKernels) {
  EXPECT_FALSE(LastConsoleIsHvc(""));
  EXPECT_FALSE(LastConsoleIsHvc("console=ttyS0 quiet"));
  EXPECT_TRUE(LastConsoleIsHvc("console=ttyS0 console=hvc0 quiet"));
  EXPECT_FALSE(LastConsoleIsHvc("console=hvc0 console=ttyS0,115200"));
  EXPECT_FALSE(LastConsoleIsHvc("noconsole=hvc0"));
}

TEST_F(LinuxBootTest, WhatDoesNotFitIsRefusedWithTheRemedy) {
  BzImageFile large;
  large.header.init_size = static_cast<uint32_t>(kMemory);
  EXPECT_THAT(
      Error(large.Bytes()),
      HasSubstr("needs 144 MiB of memory, and the guest has 128 MiB: give it more --memory"));
  boot_.command_line.assign(2048, 'x');
  EXPECT_THAT(Error(BzImageFile().Bytes()), HasSubstr("takes at most 2047; shorten --append"));
  boot_.command_line.assign(0x10000, 'x');
  EXPECT_THAT(Error(VmlinuxFile().Bytes()), HasSubstr("at most 65535 are taken"));
  boot_.command_line.clear();
  initrd_.resize(kMemory - 0x2000000);
  EXPECT_THAT(Error(BzImageFile().Bytes()), HasSubstr("the kernel with its initrd needs"));
  initrd_.clear();
  boot_.memory_bytes = uint64_t{4} << 30;
  EXPECT_THAT(Error(BzImageFile().Bytes()), HasSubstr("from 64 MiB to 3072 MiB"));
}

}  // namespace
}  // namespace underfoot::testing
