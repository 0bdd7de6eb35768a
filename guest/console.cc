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

void Line::Send() {
  text_[size_++] = '\n';
  Out32(abi::kTextPort, size_);
  size_ = 0;
}

}  // namespace underfoot::guest
