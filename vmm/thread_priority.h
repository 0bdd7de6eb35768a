// A little more of the CPU for the threads that everybody waits for.
//
// Guests keep every CPU busy; a thread that resolves faults for a few microseconds at a time must
// not queue behind their time slices.
//
// Thread safety: acts on the calling thread.

#ifndef UNDERFOOT_VMM_THREAD_PRIORITY_H_
#define UNDERFOOT_VMM_THREAD_PRIORITY_H_

namespace underfoot {

// Names the calling thread, at most 15 characters.
void NameThisThread(const char* name);

// Raises the calling thread's nice level. Needs CAP_SYS_NICE; without it nothing changes, and
// faults take longer when all CPUs are busy.
void RaiseThisThread();

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_THREAD_PRIORITY_H_
