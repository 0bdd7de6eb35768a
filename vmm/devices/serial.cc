#include "vmm/devices/serial.h"

#include <algorithm>
#include <utility>

#include "guest/abi.h"

namespace underfoot {
namespace {

constexpr uint16_t kRegisters = 8;
constexpr std::byte kTransmitterReady{0x60};  // holding register and shift register empty

}  // namespace

SerialPort::SerialPort(unsigned vcpus, Sink sink) : sink_(std::move(sink)), lines_(vcpus) {}

bool SerialPort::Claims(uint16_t port) {
  return port >= abi::kSerialPort && port < abi::kSerialPort + kRegisters;
}

ExitOutcome SerialPort::Access(unsigned vcpu, const PortIo& io) {
  if (!io.write) {
    std::fill(io.data.begin(), io.data.end(),
              io.port == abi::kSerialLineStatusPort ? kTransmitterReady : std::byte{0});
    return ExitOutcome::kContinue;
  }
  // The line settings have no effect.
  return io.port == abi::kSerialPort ? Print(vcpu, io.data) : ExitOutcome::kContinue;
}

ExitOutcome SerialPort::Print(unsigned vcpu, std::span<const std::byte> text) {
  absl::MutexLock lock(&mutex_);
  if (vcpu >= lines_.size()) return ExitOutcome::kFail;
  for (const std::byte byte : text) TakeLocked(vcpu, static_cast<char>(byte));
  return ExitOutcome::kContinue;
}

void SerialPort::TakeLocked(unsigned vcpu, char byte) {
  if (byte == '\r') return;
  if (byte == '\n') return EmitLocked(vcpu);
  lines_[vcpu].push_back(byte);
  if (lines_[vcpu].size() >= kMaxLine) EmitLocked(vcpu);
}

void SerialPort::EmitLocked(unsigned vcpu) {
  sink_(vcpu, lines_[vcpu]);
  lines_[vcpu].clear();
}

void SerialPort::Flush() {
  absl::MutexLock lock(&mutex_);
  for (unsigned vcpu = 0; vcpu < lines_.size(); ++vcpu) {
    if (!lines_[vcpu].empty()) EmitLocked(vcpu);
  }
}

}  // namespace underfoot
