// A line for the console, which is sent as a whole: one exit to the VMM.

#ifndef UNDERFOOT_GUEST_CONSOLE_H_
#define UNDERFOOT_GUEST_CONSOLE_H_

#include <cstddef>
#include <cstdint>

#include "guest/abi.h"

namespace underfoot::guest {

// Each vCPU has one text: no other Line of the vCPU may exist, except in its exception handler.
class Line {
 public:
  explicit Line(uint64_t vcpu) : text_(reinterpret_cast<char*>(abi::TextGpa(vcpu))) {}
  Line& operator<<(const char* text);
  Line& operator<<(uint64_t number);  // decimal
  Line& Hex(uint64_t number);         // 0x...
  void Send();

 private:
  void Append(char c) {
    if (size_ < abi::kTextBytes - 1) text_[size_++] = c;  // Send adds the end of the line
  }

  char* const text_;
  uint32_t size_ = 0;
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_CONSOLE_H_
