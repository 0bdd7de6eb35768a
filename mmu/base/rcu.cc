#include "mmu/base/rcu.h"

#include <urcu/urcu-memb.h>

#include <cstddef>
#include <new>

#include "mmu/base/check.h"

#if defined(__SANITIZE_THREAD__)
#define UNDERFOOT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDERFOOT_TSAN 1
#endif
#endif

#ifdef UNDERFOOT_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace underfoot::rcu {
namespace {

// liburcu is not instrumented for ThreadSanitizer. These two calls declare its ordering: everything
// in a read section, and everything before a deferred call was made, happens before the end of the
// grace period; and the deferred call happens before the end of a barrier.
[[maybe_unused]] char grace_period_marker;

void AnnounceRelease() {
#ifdef UNDERFOOT_TSAN
  __tsan_release(&grace_period_marker);
#endif
}

void AnnounceAcquire() {
#ifdef UNDERFOOT_TSAN
  __tsan_acquire(&grace_period_marker);
#endif
}

class Registration {
 public:
  Registration() { urcu_memb_register_thread(); }
  ~Registration() { urcu_memb_unregister_thread(); }
};

// A plain flag beside the thread_local object: a test of the flag is one load, while the guard of
// the object is a function call.
constinit thread_local bool registered = false;
constinit thread_local int depth = 0;

void RegisterThisThread() {
  static thread_local Registration registration;
  static_cast<void>(registration);
  registered = true;
}

struct LiburcuCall {
  rcu_head head;
  void (*callback)(DeferHead*);
};

}  // namespace

void ReadLock() {
  if (!registered) [[unlikely]]
    RegisterThisThread();
  ++depth;
  urcu_memb_read_lock();
}

void ReadUnlock() {
  AnnounceRelease();
  urcu_memb_read_unlock();
  --depth;
}

bool InReadSection() { return depth != 0; }

void Defer(DeferHead* head, void (*callback)(DeferHead*)) {
  if (!registered) [[unlikely]]
    RegisterThisThread();
  static_assert(sizeof(LiburcuCall) <= sizeof(DeferHead));
  static_assert(alignof(LiburcuCall) <= alignof(DeferHead));
  auto* call = new (head->storage) LiburcuCall{};
  call->callback = callback;
  AnnounceRelease();
  urcu_memb_call_rcu(&call->head, [](rcu_head* raw) {
    AnnounceAcquire();
    auto* self = reinterpret_cast<LiburcuCall*>(raw);
    self->callback(reinterpret_cast<DeferHead*>(self));
    AnnounceRelease();  // to Barrier
  });
}

void Synchronize() {
  UNDERFOOT_CHECK(depth == 0, "grace period awaited inside a read section", depth, 0);
  AnnounceRelease();
  urcu_memb_synchronize_rcu();
  AnnounceAcquire();
}

void Barrier() {
  UNDERFOOT_CHECK(depth == 0, "deferred calls awaited inside a read section", depth, 0);
  urcu_memb_barrier();
  AnnounceAcquire();
}

void StartWorker() { static_cast<void>(urcu_memb_get_default_call_rcu_data()); }

}  // namespace underfoot::rcu
