// A line for the serial port, which is sent as a whole.

#ifndef UNDERFOOT_GUEST_CONSOLE_H_
#define UNDERFOOT_GUEST_CONSOLE_H_

#include <cstddef>
#include <cstdint>

namespace underfoot::guest {

class Line {
 public:
  Line& operator<<(const char* text);
  Line& operator<<(uint64_t number);  // decimal
  Line& Hex(uint64_t number);         // 0x...
  void Send();

 private:
  void Append(char c) {
    if (size_ < sizeof(text_) - 1) text_[size_++] = c;  // Send adds the end of the line
  }

  size_t size_ = 0;
  char text_[240];
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_CONSOLE_H_
