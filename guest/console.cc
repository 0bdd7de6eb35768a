#include "guest/console.h"

#include "guest/abi.h"
#include "guest/intrinsics.h"

namespace underfoot::guest {

Line& Line::operator<<(const char* text) {
  while (*text != '\0') Append(*text++);
  return *this;
}

Line& Line::operator<<(uint64_t number) {
  char digits[20];
  size_t count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (count != 0) Append(digits[--count]);
  return *this;
}

Line& Line::Hex(uint64_t number) {
  Append('0');
  Append('x');
  int shift = 60;
  while (shift > 0 && (number >> shift) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) Append("0123456789abcdef"[(number >> shift) & 0xf]);
  return *this;
}

// The VMM's port accepts every byte at once, so the line status need not be read. Each access is an
// exit to the VMM, which costs many times what the text costs, so four characters share one.
void Line::Send() {
  text_[size_++] = '\n';
  size_t i = 0;
  for (; i + sizeof(uint32_t) <= size_; i += sizeof(uint32_t)) {
    uint32_t four = 0;
    __builtin_memcpy(&four, text_ + i, sizeof(four));
    Out32(abi::kSerialPort, four);
  }
  for (; i < size_; ++i) Out8(abi::kSerialPort, static_cast<uint8_t>(text_[i]));
  size_ = 0;
}

}  // namespace underfoot::guest
