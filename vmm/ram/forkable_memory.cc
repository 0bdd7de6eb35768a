#include "vmm/ram/forkable_memory.h"

#include <pthread.h>

#include "mmu/base/check.h"

namespace underfoot {
namespace {

// Guards: whether memory may be given to children, against fork(). Order: outermost. Held across a
// fork and calls of the hooks. Not an absl::Mutex, whose deadlock detector would see the locks that
// fork() takes behind it; and unlocked in the child by the thread that locked it in the parent.
pthread_mutex_t g_forkable = PTHREAD_MUTEX_INITIALIZER;

void Lock() { pthread_mutex_lock(&g_forkable); }
void Unlock() { pthread_mutex_unlock(&g_forkable); }

// Before there are threads: a fork() that is under way would have passed the handler.
const int g_registered = pthread_atfork(&Lock, &Unlock, &Unlock);

}  // namespace

ForkableMemory::ForkableMemory() {
  UNDERFOOT_CHECK(g_registered == 0, "no handler for fork()", g_registered, 0);
  Lock();
}

ForkableMemory::~ForkableMemory() { Unlock(); }

}  // namespace underfoot
