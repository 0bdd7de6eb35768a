// The devices of a Linux guest that are reached by ports, and the processor that it sees.

#include <gtest/gtest.h>
#include <linux/serial_reg.h>

#include <string>
#include <vector>

#include "vmm/boot/pc_layout.h"
#include "vmm/devices/pc_platform.h"
#include "vmm/kvm/cpuid.h"

namespace underfoot::testing {
namespace {

class PcPortsTest : public ::testing::Test {
 protected:
  ExitOutcome Write(uint16_t port, uint8_t value) {
    std::byte data{value};
    return platform_.OnPortIo(
        0, {.port = port, .size = 1, .count = 1, .write = true, .data = {&data, 1}});
  }
  uint8_t Read(uint16_t port) {
    std::byte data{0x55};
    EXPECT_EQ(platform_.OnPortIo(
                  0, {.port = port, .size = 1, .count = 1, .write = false, .data = {&data, 1}}),
              ExitOutcome::kContinue);
    return std::to_integer<uint8_t>(data);
  }
  uint8_t ReadUart(int reg) { return Read(static_cast<uint16_t>(pc::kSerialPort + reg)); }
  void WriteUart(int reg, int value) {
    EXPECT_EQ(Write(static_cast<uint16_t>(pc::kSerialPort + reg), static_cast<uint8_t>(value)),
              ExitOutcome::kContinue);
  }

  std::string output_;
  bool line_ = false;
  std::vector<bool> edges_;
  PcPlatform platform_{{.output = [this](std::string_view bytes) { output_ += bytes; },
                        .line =
                            [this](bool high) {
                              line_ = high;
                              edges_.push_back(high);
                            }},
                       [this] { output_ += "(flushed)"; }};
};

TEST_F(PcPortsTest, WhatIsSentComesOutAndTheTransmitterIsAlwaysEmpty) {
  for (const char c : std::string("hello\r\n")) {
    EXPECT_EQ(ReadUart(UART_LSR), UART_LSR_THRE | UART_LSR_TEMT);
    WriteUart(UART_TX, c);
  }
  EXPECT_EQ(output_, "hello\r\n");
  EXPECT_TRUE(edges_.empty()) << "an interrupt that nobody has enabled";
}

TEST_F(PcPortsTest, TheTransmittersInterruptComesWhenItIsEnabledAndAfterEachByte) {
  WriteUart(UART_IER, UART_IER_THRI);
  EXPECT_TRUE(line_);
  EXPECT_EQ(ReadUart(UART_IIR), UART_IIR_THRI);
  EXPECT_FALSE(line_) << "reading the cause acknowledges it";
  EXPECT_EQ(ReadUart(UART_IIR), UART_IIR_NO_INT);
  WriteUart(UART_TX, 'x');
  EXPECT_TRUE(line_);
  WriteUart(UART_IER, 0);
  EXPECT_FALSE(line_);
  // Linux's test of the transmitter enables it again, and expects the interrupt.
  WriteUart(UART_IER, UART_IER_THRI);
  EXPECT_EQ(ReadUart(UART_IIR), UART_IIR_THRI);
}

TEST_F(PcPortsTest, InputRaisesTheLineUntilItIsRead) {
  EXPECT_EQ(platform_.uart().Receive("ab"), 2u);
  EXPECT_FALSE(line_);
  WriteUart(UART_IER, UART_IER_RDI);
  EXPECT_TRUE(line_);
  EXPECT_EQ(ReadUart(UART_IIR), UART_IIR_RDI);
  EXPECT_EQ(ReadUart(UART_LSR) & UART_LSR_DR, UART_LSR_DR);
  EXPECT_EQ(ReadUart(UART_RX), 'a');
  EXPECT_TRUE(line_);
  EXPECT_EQ(ReadUart(UART_RX), 'b');
  EXPECT_FALSE(line_);
  EXPECT_EQ(ReadUart(UART_LSR) & UART_LSR_DR, 0);
  EXPECT_EQ(ReadUart(UART_RX), 0);
}

TEST_F(PcPortsTest, MoreInputThanWaitsAtMostIsNotTaken) {
  const std::string much(Uart::kMostWaiting + 5, 'x');
  EXPECT_EQ(platform_.uart().Receive(much), Uart::kMostWaiting);
  EXPECT_EQ(platform_.uart().Receive("y"), 0u);
  ReadUart(UART_RX);
  EXPECT_EQ(platform_.uart().Receive("yz"), 1u);
}

// What Linux's driver looks at before it believes that there is a UART (8250_port.c, autoconfig).
TEST_F(PcPortsTest, ADriverFindsA16550WithFifos) {
  WriteUart(UART_SCR, 0xa5);
  EXPECT_EQ(ReadUart(UART_SCR), 0xa5);
  WriteUart(UART_IER, 0xff);
  EXPECT_EQ(ReadUart(UART_IER), 0x0f);
  WriteUart(UART_IER, 0);
  WriteUart(UART_MCR, UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_RTS);
  EXPECT_EQ(ReadUart(UART_MSR) & 0xf0, UART_MSR_DCD | UART_MSR_CTS);
  WriteUart(UART_MCR, 0);
  EXPECT_EQ(ReadUart(UART_MSR), UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS);
  WriteUart(UART_FCR, UART_FCR_ENABLE_FIFO);
  EXPECT_EQ(ReadUart(UART_IIR) & 0xc0, 0xc0);
  WriteUart(UART_LCR, UART_LCR_DLAB);
  WriteUart(UART_DLL, 0x34);
  WriteUart(UART_DLM, 0x12);
  EXPECT_EQ(ReadUart(UART_DLL), 0x34);
  EXPECT_EQ(ReadUart(UART_DLM), 0x12);
  EXPECT_EQ(output_, "") << "the divisor was sent";
}

TEST_F(PcPortsTest, TheFirstRequestForPowerCounts) {
  EXPECT_EQ(platform_.power_request(), PowerRequest::kNone);
  EXPECT_EQ(Read(pc::kSleepStatusPort), 0);
  EXPECT_EQ(Write(pc::kSleepControlPort, 5 << 2), ExitOutcome::kContinue) << "without its start";
  EXPECT_EQ(Write(pc::kSleepControlPort, 1 << 5 | 3 << 2), ExitOutcome::kContinue)
      << "another type";
  EXPECT_EQ(Write(pc::kResetPort, 0), ExitOutcome::kContinue);
  EXPECT_EQ(platform_.power_request(), PowerRequest::kNone);
  EXPECT_EQ(Write(pc::kSleepControlPort, 1 << 5 | 5 << 2), ExitOutcome::kStop);
  EXPECT_EQ(platform_.power_request(), PowerRequest::kOff);
  EXPECT_EQ(Write(pc::kResetPort, 1), ExitOutcome::kStop);
  EXPECT_EQ(platform_.power_request(), PowerRequest::kOff);
}

TEST_F(PcPortsTest, AResetIsNoPowerOff) {
  EXPECT_EQ(Write(pc::kResetPort, 1), ExitOutcome::kStop);
  EXPECT_EQ(platform_.power_request(), PowerRequest::kReset);
}

TEST_F(PcPortsTest, APortWithoutADeviceReadsAsOnes) {
  EXPECT_EQ(Read(0xcf8), 0xff);
  EXPECT_EQ(Read(0x501), 0xff) << "the test guest's exit port";
}

TEST(LineCutterTest, BytesBecomeLinesAndTheRestComesAtTheEnd) {
  std::vector<std::string> lines;
  LineCutter cutter([&](std::string_view line) { lines.emplace_back(line); });
  cutter.Take("one\r\ntw");
  cutter.Take("o\n\nthree");
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two", ""}));
  cutter.Flush();
  cutter.Flush();
  EXPECT_EQ(lines.back(), "three");
  EXPECT_EQ(lines.size(), 4u);
}

kvm_cpuid_entry2 Leaf(uint32_t function, uint32_t index = 0) {
  kvm_cpuid_entry2 leaf{};
  leaf.function = function;
  leaf.index = index;
  leaf.eax = leaf.ebx = leaf.ecx = leaf.edx = 0x11111111;
  return leaf;
}

const kvm_cpuid_entry2* Find(const std::vector<kvm_cpuid_entry2>& leaves, uint32_t function,
                             uint32_t index = 0) {
  for (const kvm_cpuid_entry2& leaf : leaves) {
    if (leaf.function == function && leaf.index == index) return &leaf;
  }
  return nullptr;
}

TEST(PcCpuidTest, AVcpuSeesAHypervisorItsOwnNumberAndTheOthers) {
  kvm_cpuid_entry2 vendor = Leaf(0);
  vendor.ebx = 0x68747541;
  const auto leaves = PcCpuid({vendor, Leaf(1), Leaf(7), Leaf(0xb), Leaf(0xb, 1), Leaf(0xb, 2),
                               Leaf(0x1f), Leaf(0x80000008), Leaf(0x8000001e)},
                              {.apic_id = 3, .vcpus = 6, .tsc_deadline = true});
  const kvm_cpuid_entry2* features = Find(leaves, 1);
  ASSERT_NE(features, nullptr);
  EXPECT_EQ(features->ecx, 0x11111111u | 1u << 31 | 1u << 24);
  EXPECT_EQ(features->ebx, 0x03061111u);
  EXPECT_EQ(features->edx & 1u << 28, 1u << 28);
  EXPECT_EQ(Find(leaves, 7)->ebx, 0x11111111u) << "a leaf that is none of the vCPU's own";
  ASSERT_NE(Find(leaves, 0xb, 1), nullptr);
  EXPECT_EQ(Find(leaves, 0xb, 0)->edx, 3u);
  EXPECT_EQ(Find(leaves, 0xb, 0)->ebx, 1u);
  EXPECT_EQ(Find(leaves, 0xb, 1)->eax, 3u) << "bits of an APIC id of 6 cores";
  EXPECT_EQ(Find(leaves, 0xb, 1)->ebx, 6u);
  EXPECT_EQ(Find(leaves, 0xb, 2), nullptr);
  EXPECT_EQ(Find(leaves, 0x1f), nullptr);
  EXPECT_EQ(Find(leaves, 0x80000008)->ecx & 0xf0ff, 0x3005u);
  EXPECT_EQ(Find(leaves, 0x8000001e)->eax, 3u);
}

TEST(PcCpuidTest, OneVcpuIsAloneAndWithoutATimerThatKvmLacks) {
  const auto leaves = PcCpuid({Leaf(1), Leaf(0x80000008)}, {.apic_id = 0, .vcpus = 1});
  EXPECT_EQ(Find(leaves, 1)->edx & 1u << 28, 0u);
  EXPECT_EQ(Find(leaves, 1)->ecx & 1u << 24, 0x11111111u & 1u << 24);
  EXPECT_EQ(Find(leaves, 0xb), nullptr) << "a leaf that the host does not have";
  EXPECT_EQ(Find(leaves, 0x80000008)->ecx, 0x11111111u) << "of another vendor";
}

}  // namespace
}  // namespace underfoot::testing
