// The hooked calls. Each of them calls the next function of the same name (next_calls.h), between
// `begin` and `end` of the attached ranges that it touches. Only this file decides which ranges
// those are: the libc names (interpose.cc), the C API and the machine's hooked_calls.h all call
// these functions.
//
// Arguments, results and errno are those of the system call; no call is retried.
//
// Thread safety: any thread. In a signal handler only if the callbacks allow it, because a call
// that touches an attached range runs them. Besides the callbacks, a call needs less than 1 KiB of
// stack.

#ifndef UNDERFOOT_VMM_HOOKS_CALLS_H_
#define UNDERFOOT_VMM_HOOKS_CALLS_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "vmm/base/newer_kernels.h"

namespace underfoot::hooks {

int Madvise(void* start, size_t length, int advice);
ssize_t ProcessMadvise(int pidfd, const iovec* ranges, size_t count, int advice, unsigned flags);
int Munmap(void* start, size_t length);
void* Mremap(void* old_start, size_t old_length, size_t new_length, int flags, void* new_start);
int Mprotect(void* start, size_t length, int protection);
int PkeyMprotect(void* start, size_t length, int protection, int key);
void* Mmap(void* start, size_t length, int protection, int flags, int fd, off_t offset);
int Fallocate(int fd, int mode, off_t offset, off_t length);
int Ftruncate(int fd, off_t length);
int Brk(void* end);
void* Sbrk(intptr_t bytes);
void* Shmat(int segment, const void* start, int flags);
int Shmdt(const void* start);
// The number of calls with arguments that the kernel always refuses: brk(1), sbrk(INTPTR_MIN + 1),
// shmat of a negative segment, shmdt of no page. A self-test makes such calls.
uint32_t ImpossibleCalls();
int UffdWriteProtect(int uffd, void* start, size_t length, uint64_t mode);
// ioctl(pagemap, PAGEMAP_SCAN). It counts as a change if it write-protects pages.
int PagemapScan(int pagemap, newer::PagemapScan* scan);
ssize_t UffdMove(int uffd, void* to, void* from, size_t length, uint64_t mode);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_CALLS_H_
