// Workload `shared`: the rings of the shared page (abi.h). vCPU 0 consumes every request in order
// and answers it; the other vCPUs watch that no index ever goes back.

#ifndef UNDERFOOT_GUEST_SHARED_H_
#define UNDERFOOT_GUEST_SHARED_H_

#include <cstdint>

#include "guest/context.h"

namespace underfoot::guest {

class SharedRings {
 public:
  // `page` may be 0: then there is nothing to do.
  explicit SharedRings(uint64_t page) : page_(page) {}

  // vCPU 0: takes all requests that are there and that can be answered. True if there were any.
  bool Serve(Context& context);

  // Another vCPU: looks at the indices once.
  void Watch(Context& context);

  bool present() const { return page_ != 0; }

 private:
  struct Indices {
    uint64_t tail = 0;
    uint64_t head = 0;
  };

  // Reads a ring's indices and complains where they went back, passed each other or ran ahead.
  Indices Look(Context& context, uint64_t ring, Indices& seen);
  void Take(Context& context, uint64_t n);
  void Complain(Context& context, uint64_t gpa, uint64_t expected, uint64_t found,
                abi::MismatchKind kind);

  uint64_t page_;
  uint64_t consumed_ = 0;  // vCPU 0's own truth of to_guest.tail and to_vmm.head
  Indices requests_seen_;
  Indices answers_seen_;
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_SHARED_H_
