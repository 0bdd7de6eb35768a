// How many pages to bring in with a fault: one, until faults follow one another; then four times as
// many each time, ahead of the fault in its direction, up to a limit. Whatever does not follow is
// one page: pages that nobody touches cost memory, and a scattered pattern gains nothing.
//
//   faults of a stream:  0   1        4                       48                 128  ...
//   brought in:         [0) [1 2 3)  [4 .. 15)               [48 .. 63)
//   once nobody waits:                        [16 .. 47)               [64 .. 127)
//
// From its third fault on, a stream is brought in further once nobody waits, window by window
// (Further): each time twice as far, since all before has been touched, up to kMostFurther limits.
//
// A window ends at a multiple of its size, so a long stream gets whole aligned windows. A stream
// that goes on is known by the page that it must fault on next. Several are followed at once, one
// for each vCPU and some more; half of the places are for those that have not grown yet, so that
// scattered faults push out no stream that has. A fault inside the last window of a stream says
// that its pages were not to be had, or have gone already: its next window does not grow, and after
// several of them shrinks.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_MEMORY_FAULT_WINDOW_H_
#define UNDERFOOT_VMM_MEMORY_FAULT_WINDOW_H_

#include <array>
#include <cstdint>

#include "mmu/types.h"

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
    HvaRange window = {};  // of the last fault, and what came in further; empty: the place is free
    uint64_t pages = 1;    // 1: has not grown, and has no direction
    bool up = true;
    unsigned faults = 1;   // foretold ones, and the first
    uint64_t used = 0;     // when
    uint64_t further = 0;  // how many pages, after the last fault
    uint64_t left = 0;     // of them
    HvaRange last = {};    // brought in
  };

  Stream& Victim();

  const uint64_t limit_;
  uint64_t now_ = 0;
  std::array<Stream, kStreams> streams_ = {};
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_FAULT_WINDOW_H_
