// Waits for whoever holds the mmap_lock of this process: an operation that takes it for writing
// returns when all who held it before have let it go.
//
// A removal of private memory that userfaultfd is registered with holds it, shared, from its MMU
// notifier record to the end of its zap (madvise_lock and zap_page_range_single in mm/, Linux 6.1
// to 6.18; without userfaultfd a lock of the VMA would do). mmap_barrier_test.cc looks whether the
// kernel that it runs on does so.
//
// Thread safety: any thread. It waits for no lock of this program; page faults of the process wait
// meanwhile.

#ifndef UNDERFOOT_VMM_MEMORY_MMAP_BARRIER_H_
#define UNDERFOOT_VMM_MEMORY_MMAP_BARRIER_H_

namespace underfoot {

class MmapBarrier {
 public:
  MmapBarrier();
  ~MmapBarrier();
  MmapBarrier(const MmapBarrier&) = delete;
  MmapBarrier& operator=(const MmapBarrier&) = delete;

  // False: there is no memory for it.
  bool valid() const { return page_ != nullptr; }
  void Wait() const;

 private:
  void* page_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_MMAP_BARRIER_H_
