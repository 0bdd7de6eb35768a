#include "vmm/thread_priority.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

namespace underfoot {
namespace {

constexpr int kRaisedNice = -15;

}  // namespace

void NameThisThread(const char* name) {
  static_cast<void>(pthread_setname_np(pthread_self(), name));  // fails for a long name only
}

void RaiseThisThread() {
  // On Linux the nice level is a thread's own. Best effort: see the header.
  static_cast<void>(setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kRaisedNice));
}

}  // namespace underfoot
