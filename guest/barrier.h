// A barrier at which all vCPUs meet, and agree on whether to continue. It must lie in the system
// area, because it uses a locked instruction.

#ifndef UNDERFOOT_GUEST_BARRIER_H_
#define UNDERFOOT_GUEST_BARRIER_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// Spins for a short time and then gives up the host CPU: if there are more vCPUs than CPUs, the
// awaited vCPU may need this CPU.
class Spinner {
 public:
  explicit Spinner(Context& context) : context_(context) {}
  void Wait();

 private:
  Context& context_;
  uint64_t turns_ = 0;
};

class Barrier {
 public:
  // Returns when every vCPU has arrived. The last one decides for all, by `stop`, whether the run
  // ends; true: it ends. If a vCPU has ended by an exception, the others end here.
  bool Meet(Context& context, bool stop);

 private:
  alignas(64) uint64_t arrived_ = 0;
  alignas(64) uint64_t epoch_ = 0;  // in units of 2; the lowest bit is the decision
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_BARRIER_H_
