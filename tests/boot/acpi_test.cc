// The ACPI tables as an operating system reads them, and the DSDT against the layout of the machine.

#include "vmm/boot/acpi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string_view>
#include <vector>

#include "guest/abi.h"
#include "vmm/boot/pc_layout.h"

namespace underfoot::testing {
namespace {

constexpr Gpa kAt{0xe0000};
constexpr uint32_t kVcpus = 3;

class AcpiTest : public ::testing::Test {
 protected:
  template <class T>
  T Read(uint64_t gpa, uint64_t offset) const {
    T value;
    std::memcpy(&value, &tables_.at(gpa - kAt.value + offset), sizeof(T));
    return value;
  }
  std::string_view Text(uint64_t gpa, size_t bytes) const {
    return {reinterpret_cast<const char*>(&tables_.at(gpa - kAt.value)), bytes};
  }
  uint8_t Sum(uint64_t gpa, uint64_t bytes) const {
    uint8_t sum = 0;
    for (uint64_t i = 0; i < bytes; ++i) sum = static_cast<uint8_t>(sum + Read<uint8_t>(gpa, i));
    return sum;
  }
  void ExpectTable(uint64_t gpa, std::string_view signature, uint8_t revision) const {
    EXPECT_EQ(Text(gpa, 4), signature);
    EXPECT_EQ(Read<uint8_t>(gpa, 8), revision);
    EXPECT_EQ(Sum(gpa, Read<uint32_t>(gpa, 4)), 0) << "checksum of " << signature;
  }
  uint64_t Xsdt() const { return Read<uint64_t>(kAt.value, 24); }
  uint64_t Fadt() const { return Read<uint64_t>(Xsdt(), 36); }
  uint64_t Madt() const { return Read<uint64_t>(Xsdt(), 44); }

  const std::vector<std::byte> tables_ = MakeAcpiTables(kAt, kVcpus, Dsdt());
};

TEST_F(AcpiTest, TheRsdpLeadsToEveryTableAndEachChecksumIsRight) {
  EXPECT_EQ(Text(kAt.value, 8), "RSD PTR ");
  EXPECT_EQ(Sum(kAt.value, 20), 0);
  EXPECT_EQ(Sum(kAt.value, 36), 0);
  ExpectTable(Xsdt(), "XSDT", 1);
  ExpectTable(Fadt(), "FACP", 6);
  ExpectTable(Madt(), "APIC", 4);
  ExpectTable(Read<uint64_t>(Fadt(), 140), "DSDT", 2);
}

TEST_F(AcpiTest, TheFadtIsHardwareReducedWithPortsForSleepAndReset) {
  EXPECT_EQ(Read<uint32_t>(Fadt(), 4), 276u);
  EXPECT_EQ(Read<uint32_t>(Fadt(), 112), 1u << 20 | 1u << 10);
  EXPECT_EQ(Read<uint16_t>(Fadt(), 109), 0x24);
  EXPECT_EQ(Read<uint8_t>(Fadt(), 128), 1);
  for (const auto& [offset, port] :
       {std::pair{116, 0x602}, std::pair{244, 0x600}, std::pair{256, 0x601}}) {
    EXPECT_EQ(Read<uint8_t>(Fadt(), static_cast<uint64_t>(offset)), 1);      // ports
    EXPECT_EQ(Read<uint8_t>(Fadt(), static_cast<uint64_t>(offset) + 1), 8);  // bits
    EXPECT_EQ(Read<uint64_t>(Fadt(), static_cast<uint64_t>(offset) + 4),
              static_cast<uint64_t>(port));
  }
}

TEST_F(AcpiTest, TheMadtHasALocalApicForEachVcpuAndOneIoApic) {
  EXPECT_EQ(Read<uint32_t>(Madt(), 36), 0xfee00000u);
  EXPECT_EQ(Read<uint32_t>(Madt(), 40), 0u) << "an 8259 is announced";
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    const uint64_t entry = 44 + vcpu * 8;
    EXPECT_EQ(Read<uint16_t>(Madt(), entry), 0x0800);
    EXPECT_EQ(Read<uint8_t>(Madt(), entry + 3), vcpu);
    EXPECT_EQ(Read<uint32_t>(Madt(), entry + 4), 1u);
  }
  const uint64_t io_apic = 44 + kVcpus * 8;
  EXPECT_EQ(Read<uint16_t>(Madt(), io_apic), 0x0c01);
  EXPECT_EQ(Read<uint32_t>(Madt(), io_apic + 4), 0xfec00000u);
  EXPECT_EQ(Read<uint32_t>(Madt(), io_apic + 8), 0u);
  EXPECT_EQ(Read<uint32_t>(Madt(), 4), io_apic + 12);
}

// A QWord address space descriptor (ACPI 6.4, section 6.4.3.5.1) and an extended interrupt descriptor
// (section 6.4.3.6) of each place of the window.
TEST_F(AcpiTest, TheDsdtNamesTheWindowAndTheInterruptsOfTheMachine) {
  const std::span<const std::byte> dsdt = Dsdt();
  const auto count = [&](const std::vector<std::byte>& pattern) {
    long found = 0;
    for (auto at = dsdt.begin();; ++found, ++at) {
      at = std::search(at, dsdt.end(), pattern.begin(), pattern.end());
      if (at == dsdt.end()) return found;
    }
  };
  const auto bytes_of = [](const auto&... values) {
    std::vector<std::byte> bytes;
    const auto append = [&bytes](const auto& value) {
      const auto* const begin = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), begin, begin + sizeof(value));
    };
    (append(values), ...);
    return bytes;
  };
  const auto interrupt = [&](uint32_t gsi) {
    // A consumer's, an edge, active high, exclusive.
    return bytes_of(uint8_t{0x89}, uint16_t{6}, uint8_t{3}, uint8_t{1}, gsi);
  };
  for (uint64_t slot = 0; slot < pc::kVirtioSlots; ++slot) {
    const uint64_t first = abi::kMmioGpa + slot * abi::kMmioDeviceBytes;
    EXPECT_EQ(count(bytes_of(first, first + abi::kMmioDeviceBytes - 1, uint64_t{0},
                             abi::kMmioDeviceBytes)),
              1)
        << "place " << slot;
    EXPECT_EQ(count(interrupt(pc::kFirstVirtioGsi + static_cast<uint32_t>(slot))), 1);
  }
  EXPECT_EQ(count(interrupt(pc::kSerialGsi)), 1);
  EXPECT_EQ(count(bytes_of(uint8_t{0x47}, uint8_t{1}, pc::kSerialPort, pc::kSerialPort)), 1);
  const char off[] = {'_', 'S', '5', '_', 0x12};
  EXPECT_EQ(count(bytes_of(off)), 1);
}

}  // namespace
}  // namespace underfoot::testing
