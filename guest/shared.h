// Workload `shared`: the rings of the shared page (abi.h). vCPU 0 consumes every request in order
// and answers it. The other vCPUs check that no index ever decreases.

#ifndef UNDERFOOT_GUEST_SHARED_H_
#define UNDERFOOT_GUEST_SHARED_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

class SharedRings {
 public:
  // `page` may be 0: then the workload does nothing.
  explicit SharedRings(uint64_t page) : page_(page) {}

  // Called by vCPU 0: consumes all requests that are present and can be answered. True if there
  // were any.
  bool Serve(Context& context);

  // Called by another vCPU: checks the indices once.
  void Watch(Context& context);

  bool present() const { return page_ != 0; }

 private:
  struct Indices {
    uint64_t tail = 0;
    uint64_t head = 0;
  };

  // Reads a ring's indices. Reports a mismatch if an index decreased, passed the other one or is
  // too far ahead.
  Indices Look(Context& context, uint64_t ring, Indices& seen);
  void Take(Context& context, uint64_t n);

  uint64_t page_;
  uint64_t consumed_ = 0;  // vCPU 0's own copy of to_guest.tail and to_vmm.head
  Indices requests_seen_;
  Indices answers_seen_;
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_SHARED_H_
