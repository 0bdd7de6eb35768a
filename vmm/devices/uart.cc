#include "vmm/devices/uart.h"

#include <linux/serial_reg.h>

#include <algorithm>

#include "vmm/boot/pc_layout.h"

namespace underfoot {
namespace {

constexpr uint16_t kUartRegisters = 8;
constexpr uint8_t kFifosAreEnabled = 0xc0;  // in the interrupt identification
constexpr uint8_t kCauses = UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI;
constexpr uint8_t kModemIsReady = UART_MSR_DCD | UART_MSR_DSR | UART_MSR_CTS;

}  // namespace

bool Uart::Claims(uint16_t port) {
  return port >= pc::kSerialPort && port < pc::kSerialPort + kUartRegisters;
}

ExitOutcome Uart::Access(const PortIo& io) {
  const auto reg = static_cast<uint8_t>(io.port - pc::kSerialPort);
  absl::MutexLock lock(&mutex_);
  // A string instruction is that many accesses. The registers are one byte wide.
  for (size_t i = 0; i < io.data.size(); ++i) {
    const bool first = io.size != 0 && i % io.size == 0;
    if (io.write) {
      if (first) WriteLocked(reg, std::to_integer<uint8_t>(io.data[i]));
    } else {
      io.data[i] = std::byte{first ? ReadLocked(reg) : uint8_t{0xff}};
    }
  }
  UpdateLineLocked();
  return ExitOutcome::kContinue;
}

size_t Uart::Receive(std::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  const size_t taken = std::min(bytes.size(), kMostWaiting - received_.size());
  for (const char byte : bytes.substr(0, taken)) received_.push_back(static_cast<uint8_t>(byte));
  UpdateLineLocked();
  return taken;
}

uint8_t Uart::ReadLocked(uint8_t reg) {
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (reg) {
    case UART_RX:
      return divisor ? static_cast<uint8_t>(divisor_) : TakeByteLocked();
    case UART_IER:
      return divisor ? static_cast<uint8_t>(divisor_ >> 8) : enabled_;
    case UART_IIR:
      return ReadCauseLocked();
    case UART_LCR:
      return line_control_;
    case UART_MCR:
      return modem_control_;
    case UART_LSR:
      return UART_LSR_THRE | UART_LSR_TEMT | (received_.empty() ? 0 : UART_LSR_DR);
    case UART_MSR:
      return ModemStatusLocked();
    default:
      return scratch_;
  }
}

void Uart::WriteLocked(uint8_t reg, uint8_t value) {
  const bool divisor = (line_control_ & UART_LCR_DLAB) != 0;
  switch (reg) {
    case UART_TX:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff00) | value);
      } else {
        SendLocked(value);
      }
      return;
    case UART_IER:
      if (divisor) {
        divisor_ = static_cast<uint16_t>((divisor_ & 0xff) | value << 8);
        return;
      }
      // The transmitter is empty: enabling its interrupt raises it.
      if ((value & ~enabled_ & UART_IER_THRI) != 0) transmitter_emptied_ = true;
      enabled_ = value & kCauses;
      return;
    case UART_FCR:
      fifos_ = (value & UART_FCR_ENABLE_FIFO) != 0;
      if ((value & UART_FCR_CLEAR_RCVR) != 0) received_.clear();
      return;
    case UART_LCR:
      line_control_ = value;
      return;
    case UART_MCR:
      modem_control_ =
          value & (UART_MCR_LOOP | UART_MCR_OUT2 | UART_MCR_OUT1 | UART_MCR_RTS | UART_MCR_DTR);
      return;
    case UART_SCR:
      scratch_ = value;
      return;
    default:
      return;
  }
}

uint8_t Uart::TakeByteLocked() {
  if (received_.empty()) return 0;
  const uint8_t byte = received_.front();
  received_.pop_front();
  return byte;
}

// Reading the cause acknowledges that of the transmitter.
uint8_t Uart::ReadCauseLocked() {
  uint8_t cause = UART_IIR_NO_INT;
  if ((enabled_ & UART_IER_RDI) != 0 && !received_.empty()) {
    cause = UART_IIR_RDI;
  } else if ((enabled_ & UART_IER_THRI) != 0 && transmitter_emptied_) {
    cause = UART_IIR_THRI;
    transmitter_emptied_ = false;
  }
  return static_cast<uint8_t>(cause | (fifos_ ? kFifosAreEnabled : 0));
}

// In the loop each output of the modem control is an input.
uint8_t Uart::ModemStatusLocked() const {
  if ((modem_control_ & UART_MCR_LOOP) == 0) return kModemIsReady;
  uint8_t status = 0;
  if ((modem_control_ & UART_MCR_RTS) != 0) status |= UART_MSR_CTS;
  if ((modem_control_ & UART_MCR_DTR) != 0) status |= UART_MSR_DSR;
  if ((modem_control_ & UART_MCR_OUT1) != 0) status |= UART_MSR_RI;
  if ((modem_control_ & UART_MCR_OUT2) != 0) status |= UART_MSR_DCD;
  return status;
}

void Uart::SendLocked(uint8_t byte) {
  if ((modem_control_ & UART_MCR_LOOP) != 0) {
    if (received_.size() < kMostWaiting) received_.push_back(byte);
  } else {
    const char character = static_cast<char>(byte);
    sinks_.output({&character, 1});
  }
  transmitter_emptied_ = true;
}

void Uart::UpdateLineLocked() {
  const bool high = ((enabled_ & UART_IER_RDI) != 0 && !received_.empty()) ||
                    ((enabled_ & UART_IER_THRI) != 0 && transmitter_emptied_);
  if (high == line_is_high_) return;
  line_is_high_ = high;
  sinks_.line(high);
}

}  // namespace underfoot
