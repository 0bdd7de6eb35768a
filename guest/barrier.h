// Where all vCPUs meet, and agree on whether to go on. Lies in the system area: it uses a locked
// instruction.

#ifndef UNDERFOOT_GUEST_BARRIER_H_
#define UNDERFOOT_GUEST_BARRIER_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

// Spins a little and then gives the host CPU away: with more vCPUs than CPUs, the one that is
// waited for may be waiting for this CPU.
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
  // Returns once every vCPU is here. The last one decides for all, by `stop`, whether the run ends;
  // true means that it does. A vCPU that died of an exception ends the others here.
  bool Meet(Context& context, bool stop);

 private:
  alignas(64) uint64_t arrived_ = 0;
  alignas(64) uint64_t epoch_ = 0;  // in units of 2; the lowest bit is the decision
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_BARRIER_H_
