// Memory that runs out where a test says so: the allocations of one thread fail, from a certain one
// on. A binary that has no_memory.cc gets its operator new from there.
//
// Thread safety: each thread has its own; scopes do not nest.

#ifndef UNDERFOOT_TESTS_SUPPORT_NO_MEMORY_H_
#define UNDERFOOT_TESTS_SUPPORT_NO_MEMORY_H_

#include <cstdint>

namespace underfoot::testing {

class NoMemory {
 public:
  // `successes`: how many allocations of this thread succeed before all others fail.
  explicit NoMemory(uint64_t successes);
  ~NoMemory();
  NoMemory(const NoMemory&) = delete;
  NoMemory& operator=(const NoMemory&) = delete;

  // How many have failed.
  uint64_t failures() const;

  // In the middle of it, allocations that are none of the library's.
  class Pause {
   public:
    Pause();
    ~Pause();
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    const bool before_;
  };

  // An allocation that does not go through operator new. Throws std::bad_alloc if it fails.
  static void Allocate();
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_NO_MEMORY_H_
