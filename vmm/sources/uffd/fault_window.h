// How many pages to bring in with a fault: one, until faults follow one another; then four times as
// many each time, ahead of the fault in its direction, up to a limit. A fault that follows no other
// brings in one page: pages that the guest does not touch cost memory, and a scattered pattern gains
// nothing.
//
// With a limit of 16 pages:
//   faults of a stream:  0      1      4                     48                   128  ...
//   brought in:         [0, 1) [1, 4) [4, 16)               [48, 64)
//   when no fault waits:                       [16, 48)                [64, 128)
//
// From its third fault on, a stream gets further windows when no fault waits, one after the other
// (Further): each time twice as far, since all before has been touched, up to kMostFurther limits.
//
// A window ends at a multiple of its size, so a long stream gets whole aligned windows. A stream is
// recognized by the page on which it must fault next. kStreams streams are followed at the same
// time. If no more than half of them have grown, a new stream replaces one that has not grown; so
// scattered faults do not displace a stream that has. A fault inside the last window of a stream
// shows that some pages of the window could not be brought in, or are gone already. Each such fault
// halves the size from which the next window of the stream grows.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_SOURCES_UFFD_FAULT_WINDOW_H_
#define UNDERFOOT_VMM_SOURCES_UFFD_FAULT_WINDOW_H_

#include <array>
#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot {

class FaultWindow {
 public:
  static constexpr unsigned kStreams = 16;
  static constexpr uint64_t kMostFurther = 8;

  // `limit`: 1 is off.
  explicit FaultWindow(uint64_t limit) : limit_(limit) {}

  // The pages to bring in for a fault on `page`, which is one of them. All are of `within`, where
  // a stream goes on in another range as if there were no border.
  HvaRange Next(Hva page, HvaRange within);
  // Once the pages of Next, or of this, are there: the next window of the stream. Empty: it is far
  // enough ahead, or at the border of `within`.
  HvaRange Further(HvaRange last, HvaRange within);

 private:
  struct Stream {
    // The window of the last fault, and what Further added to it; empty: the place is free.
    HvaRange window = {};
    uint64_t pages = 1;  // the size of the window; 1: has not grown, and has no direction yet
    bool up = true;
    unsigned faults = 1;   // the first one, and those on the expected page
    uint64_t used = 0;     // the value of now_ at the last fault
    uint64_t further = 0;  // the number of pages that Further may return after the last fault
    uint64_t left = 0;     // how many of them it has not returned yet
    HvaRange last = {};    // the range that was returned last
  };

  Stream& Victim();

  const uint64_t limit_;
  uint64_t now_ = 0;
  std::array<Stream, kStreams> streams_ = {};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_UFFD_FAULT_WINDOW_H_
