// Memory that runs out in the middle of an operation. The test binary implements it; the driver
// chooses the moment.
//
// Thread safety: any thread, each for its own allocations.

#ifndef UNDERFOOT_TESTS_ORACLE_SHORTAGE_H_
#define UNDERFOOT_TESTS_ORACLE_SHORTAGE_H_

#include <cstdint>

namespace underfoot::oracle {

class Shortage {
 public:
  virtual ~Shortage() = default;
  // From now on all allocations of this thread fail, except the first `successes`.
  virtual void Start(uint64_t successes) = 0;
  // Ends the failures. Returns whether an allocation has failed.
  virtual bool End() = 0;
  // Suspends the failures while the test itself allocates.
  virtual void Pause() = 0;
  virtual void Resume() = 0;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_SHORTAGE_H_
