// The hooked calls: each is the system call, between the begin and the end of what it touches of
// attached ranges. The only place where that is decided: the libc names (interpose.cc), the C API
// and MmHooks all come here.
//
// Arguments, results and errno are those of the system call; nothing is tried again.
//
// Thread safety: any thread; with ranges attached, not in a signal handler over one of them.

#ifndef UNDERFOOT_VMM_HOOKS_CALLS_H_
#define UNDERFOOT_VMM_HOOKS_CALLS_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "vmm/hooks/newer_kernels.h"

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
int UffdWriteProtect(int uffd, void* start, size_t length, uint64_t mode);
// ioctl(pagemap, PAGEMAP_SCAN): a change where it write-protects.
int PagemapScan(int pagemap, newer::PagemapScan* scan);
ssize_t UffdMove(int uffd, void* to, void* from, size_t length, uint64_t mode);

}  // namespace underfoot::hooks

#endif  // UNDERFOOT_VMM_HOOKS_CALLS_H_
