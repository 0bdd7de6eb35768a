// The priority and the policy of the threads that all other threads depend on.
//
// Guests keep every CPU busy. A thread that resolves page faults runs for a few microseconds at a
// time, and must not wait until the time slices of the vCPU threads end: it has a raised priority,
// or it runs on the CPU whose vCPU waits for it.
//
// Thread safety: acts on the calling thread.

#ifndef UNDERFOOT_VMM_BASE_THREAD_PRIORITY_H_
#define UNDERFOOT_VMM_BASE_THREAD_PRIORITY_H_

namespace underfoot {

// Sets the name of the calling thread, of at most 15 characters.
void NameThisThread(const char* name);

// Raises the priority of the calling thread (a lower nice value). This needs CAP_SYS_NICE. Without
// that capability nothing changes, and resolving a fault takes longer while all CPUs are busy.
void RaiseThisThread();

// The calling thread preempts no other thread when it is woken (SCHED_BATCH), and is as nice as the
// process. It runs when the thread on its CPU goes to sleep, or at the end of that thread's time
// slice. RaiseThisThread undoes this, and this undoes RaiseThisThread.
void BatchThisThread();

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_THREAD_PRIORITY_H_
