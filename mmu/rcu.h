// Read-copy-update: read sections, published pointers, deferred calls. The only user of liburcu
// (flavour memb: readers need not announce quiescence, so a thread may block in KVM_RUN for ever).
//
// Thread safety: any thread; a thread is registered at its first read section and unregistered when
// it ends. Synchronize, Barrier and a deferred call's back-pressure never from inside a read
// section.
//
// Guarantees, after liburcu's own: what was unlinked before Defer or Synchronize is not seen by any
// read section when the callback runs or Synchronize returns (I4).

#ifndef UNDERFOOT_MMU_RCU_H_
#define UNDERFOOT_MMU_RCU_H_

#include <atomic>
#include <cstddef>

#include "mmu/ordering.h"

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

// Embedded in what is freed later. Opaque room for liburcu's rcu_head and our callback.
struct DeferHead {
  alignas(void*) std::byte storage[3 * sizeof(void*)];
};

// Calls `callback` on liburcu's worker after a grace period. The head must live until then.
void Defer(DeferHead* head, void (*callback)(DeferHead*));

// Deletes an object that derives from DeferHead after a grace period.
template <class T>
void DeferDelete(T* object) {
  Defer(object, [](DeferHead* head) { delete static_cast<T*>(head); });
}

// Waits for a grace period.
void Synchronize();

// Waits until every deferred call that was made before has run.
void Barrier();

// Starts the worker that makes deferred calls, which else starts with the first of them and stays
// for the life of the process.
void StartWorker();

// True while the calling thread is inside a read section: for checks only.
bool InReadSection();

// A pointer that readers follow under a ReadScope and one writer at a time replaces.
template <class T>
class Pointer {
 public:
  Pointer() = default;
  explicit Pointer(T* pointer) : pointer_(pointer) {}

  // Pairs with: Publish. Without it: a reader follows the new pointer to memory not yet
  // initialized.
  T* Load() const { return pointer_.load(kAcquire); }

  // As Load, and ordered against the caller's own earlier announcement (a reader slot, a range in
  // flight), see kStoreLoad.
  T* LoadAfterAnnouncement() const { return pointer_.load(kStoreLoad); }

  // An exchange and not a store: the publisher goes on to scan for announcements.
  T* Publish(T* pointer) { return pointer_.exchange(pointer, kStoreLoad); }

 private:
  std::atomic<T*> pointer_{nullptr};
};

}  // namespace underfoot::rcu

#endif  // UNDERFOOT_MMU_RCU_H_
