// Read-copy-update: read sections, published pointers, and deferred calls. This is the only user of
// liburcu. Its flavour is memb: readers do not have to announce quiescent states, so a thread may
// block in KVM_RUN for any time.
//
// Guarantee (I4), on top of liburcu's: when the callback of Defer runs, or Synchronize returns, no
// read section can still use an object that was unlinked before the call.
//
// Thread safety: any thread. A thread is registered with liburcu at its first read section and
// unregistered when it ends. Synchronize and Barrier wait for read sections, so they must not be
// called inside one; they abort if they are. The same holds for back-pressure on deferred calls
// (RetiredTables), which waits for a grace period.

#ifndef UNDERFOOT_MMU_BASE_RCU_H_
#define UNDERFOOT_MMU_BASE_RCU_H_

#include <atomic>
#include <cstddef>

#include "mmu/base/ordering.h"

namespace underfoot::rcu {

void ReadLock();
void ReadUnlock();

class ReadScope {
 public:
  ReadScope() { ReadLock(); }
  ~ReadScope() { ReadUnlock(); }
  ReadScope(const ReadScope&) = delete;
  ReadScope& operator=(const ReadScope&) = delete;
};

// The base of each object that is freed after a grace period. It is opaque room for liburcu's
// rcu_head and for our callback.
struct DeferHead {
  alignas(void*) std::byte storage[3 * sizeof(void*)];
};

// Calls `callback` on liburcu's worker thread after a grace period. The head must live until then.
void Defer(DeferHead* head, void (*callback)(DeferHead*));

// Deletes an object that derives from DeferHead after a grace period.
template <class T>
void DeferDelete(T* object) {
  Defer(object, [](DeferHead* head) { delete static_cast<T*>(head); });
}

// Waits for a grace period.
void Synchronize();

// Waits until every deferred call that was made before Barrier has run.
void Barrier();

// Starts the worker thread that makes the deferred calls. Without this call the first Defer starts
// it. The worker stays for the life of the process.
void StartWorker();

// True while the calling thread is inside a read section. Only for checks.
bool InReadSection();

// A pointer that readers follow inside a ReadScope and that one writer at a time replaces.
template <class T>
class Pointer {
 public:
  Pointer() = default;
  explicit Pointer(T* pointer) : pointer_(pointer) {}

  // Pairs with: Publish. Without it: a reader follows the new pointer to memory that is not yet
  // initialized.
  T* Load() const { return pointer_.load(kAcquire); }

  // As Load, and also ordered after the caller's own earlier announcement (a reader slot or a range
  // in flight): see kStoreLoad.
  T* LoadAfterAnnouncement() const { return pointer_.load(kStoreLoad); }

  // An exchange and not a store, because the publisher scans for announcements afterwards.
  T* Publish(T* pointer) { return pointer_.exchange(pointer, kStoreLoad); }

 private:
  std::atomic<T*> pointer_{nullptr};
};

}  // namespace underfoot::rcu

#endif  // UNDERFOOT_MMU_BASE_RCU_H_
