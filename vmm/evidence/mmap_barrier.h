// Waits for all threads that hold the mmap_lock of this process. It makes a system call that takes
// the lock for writing; the call returns after all earlier holders have released the lock.
//
// A removal of private memory that is registered with userfaultfd holds the lock, shared, from its
// MMU notifier record to the end of its zap (madvise_lock and zap_page_range_single in mm/, Linux
// 6.1 to 6.18; without userfaultfd the lock of the VMA would be enough). mmap_barrier_test.cc
// checks that the running kernel does so.
//
// Thread safety: any thread. It waits for no lock of this program. Page faults of the process wait
// while the lock is taken for writing.

#ifndef UNDERFOOT_VMM_EVIDENCE_MMAP_BARRIER_H_
#define UNDERFOOT_VMM_EVIDENCE_MMAP_BARRIER_H_

namespace underfoot {

class MmapBarrier {
 public:
  MmapBarrier();
  ~MmapBarrier();
  MmapBarrier(const MmapBarrier&) = delete;
  MmapBarrier& operator=(const MmapBarrier&) = delete;

  // False: no memory could be mapped for the barrier.
  bool valid() const { return page_ != nullptr; }
  void Wait() const;

 private:
  void* page_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_MMAP_BARRIER_H_
