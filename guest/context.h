// The state of a vCPU that its workloads share.

#ifndef UNDERFOOT_GUEST_CONTEXT_H_
#define UNDERFOOT_GUEST_CONTEXT_H_

#include <cstdint>

#include "guest/abi.h"
#include "guest/end.h"
#include "guest/intrinsics.h"
#include "guest/pages.h"

namespace underfoot::guest {

// xorshift64: three shifts for each number, good enough to choose pages.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(abi::Mix(seed) | 1) {}
  uint64_t Next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  // A number below `bound`, which must be less than 2^32. Uses a multiplication instead of a
  // division.
  uint64_t Below(uint64_t bound) { return ((Next() >> 32) * bound) >> 32; }

 private:
  uint64_t state_;
};

struct Context {
  Context(abi::BootInfo& boot_info, uint64_t index)
      : boot(boot_info),
        report(ReportOf(index)),
        vcpu(index),
        random(abi::Mix(boot_info.seed) + index) {}

  bool stop_requested() const { return Peek(boot.stop) != 0; }
  bool aborted() const { return Peek(boot.abort) != 0; }

  abi::BootInfo& boot;
  abi::Report& report;
  const uint64_t vcpu;
  Random random;
  Pages pages;
};

// Counts a mismatch. The first few are stored in the report and printed.
void Mismatch(Context& context, const abi::Mismatch& mismatch);
// The same, of the word at gpa.
void MismatchAt(Context& context, uint64_t gpa, uint64_t expected, uint64_t found,
                abi::MismatchKind kind);

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_CONTEXT_H_
