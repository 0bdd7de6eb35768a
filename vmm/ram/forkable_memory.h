// A scope in which a child process may inherit guest RAM. No other thread's fork() runs at the same
// time.
//
// glibc's fork() holds the locks of malloc while the kernel copies the mappings. If a mapping is
// registered with userfaultfd, the copy waits until the monitor thread has read a FORK event. The
// monitor allocates memory while it serves faults and events. It would wait for the locks of
// malloc, and fork() would wait for the monitor: a deadlock. Outside of this scope, guest RAM is
// therefore MADV_DONTFORK, for which the kernel sends no event. Inside the scope, its code forks
// with _Fork(), which takes no lock of malloc. A fork() of another thread waits for the end of the
// scope, in a handler of pthread_atfork that runs before fork() takes the locks of malloc. A scope
// waits for the end of a fork().
//
// vfork, and a clone that shares the memory, cause no FORK event. A raw clone() that copies the
// mappings, made by another thread while this scope exists, causes one, but it holds no lock.
//
// Thread safety: any thread, one scope at a time; others wait.

#ifndef UNDERFOOT_VMM_RAM_FORKABLE_MEMORY_H_
#define UNDERFOOT_VMM_RAM_FORKABLE_MEMORY_H_

namespace underfoot {

class ForkableMemory {
 public:
  ForkableMemory();
  ~ForkableMemory();
  ForkableMemory(const ForkableMemory&) = delete;
  ForkableMemory& operator=(const ForkableMemory&) = delete;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_RAM_FORKABLE_MEMORY_H_
