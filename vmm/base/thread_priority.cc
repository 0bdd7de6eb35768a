#include "vmm/base/thread_priority.h"

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace underfoot {
namespace {

constexpr int kRaisedNice = -15;

// struct sched_attr of the kernel's first version; glibc 2.36 has neither it nor the call.
struct SchedAttributes {
  uint32_t size = sizeof(SchedAttributes);
  uint32_t policy = SCHED_OTHER;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;
  uint64_t deadline = 0;
  uint64_t period = 0;
};

// Policy and nice level in one step, for the calling thread alone. The call may fail: the header
// says what happens then.
void Schedule(int policy, int nice) {
  SchedAttributes attributes;
  attributes.policy = static_cast<uint32_t>(policy);
  attributes.nice = nice;
  static_cast<void>(syscall(SYS_sched_setattr, 0, &attributes, 0));
}

}  // namespace

void NameThisThread(const char* name) {
  // It fails only if the name is too long.
  static_cast<void>(pthread_setname_np(pthread_self(), name));
}

void RaiseThisThread() { Schedule(SCHED_OTHER, kRaisedNice); }

// The nice level of the process is that of its first thread, which is never raised.
void BatchThisThread() {
  Schedule(SCHED_BATCH, getpriority(PRIO_PROCESS, static_cast<id_t>(getpid())));
}

}  // namespace underfoot
