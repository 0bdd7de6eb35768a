/*
 * libunderfoot_hooks: be told, before it happens and again afterwards, of every call by which this
 * process changes a range of its own memory. What mmu_notifier is to the kernel's secondary MMUs.
 *
 *   underfoot_attach(range, begin, end)
 *
 *   some library:  madvise(p, n, MADV_DONTNEED)
 *                    begin(change)     drop what you know of the pages, wait for who uses it
 *                    the system call
 *                    end(change)       you may look at the pages again
 *
 * Link with -lunderfoot_hooks, or preload the library. It takes the names
 *   madvise process_madvise munmap mremap mprotect pkey_mprotect mmap mmap64
 *   fallocate fallocate64 ftruncate ftruncate64
 * from libc. A call that touches no attached range is one comparison and the system call; those by
 * descriptor also ask what file it is, once a range of any file is attached, and process_madvise
 * whose process it means. Results and errno are those of the system call.
 *
 * Not seen: system calls made past these names (by syscall(2), by the dynamic linker and inside of
 * libc), truncate(2) and open(O_TRUNC) of the file behind a range, mbind, move_pages,
 * remap_file_pages, shmat(SHM_REMAP) and shmdt, what other processes do, and what the kernel does
 * by itself. posix_madvise changes no page in glibc, nor does posix_fallocate. ioctl is left alone:
 * for UFFDIO_WRITEPROTECT and UFFDIO_MOVE there are functions here.
 *
 * Units: addresses and lengths in bytes; a change is told in whole pages of 4096 bytes.
 * Errors: underfoot_attach and underfoot_detach return 0 or an errno value, and leave errno alone.
 * Thread safety: any thread. Attached ranges are read without a lock. Calls on several threads run
 * side by side, and so do their callbacks.
 * Signals: a handler may make calls that touch no attached range; those that do run callbacks.
 * Fork: the child begins with nothing attached. A child of vfork shares the memory and the ranges.
 */

#ifndef UNDERFOOT_HOOKS_H_
#define UNDERFOOT_HOOKS_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Major version in the upper 16 bits: another one is another interface. */
#define UNDERFOOT_HOOKS_VERSION UINT32_C(0x00010000)

/* As many ranges can be attached at a time. */
#define UNDERFOOT_MAX_RANGES 32

enum underfoot_call {
  UNDERFOOT_MADVISE = 1,  /* argument: the advice; also process_madvise on this process */
  UNDERFOOT_MUNMAP,       /* */
  UNDERFOOT_MREMAP,       /* argument: the flags; the old place, and a fixed new one */
  UNDERFOOT_MPROTECT,     /* argument: the protection */
  UNDERFOOT_MMAP,         /* argument: the flags; MAP_FIXED over the range */
  UNDERFOOT_FALLOCATE,    /* argument: the mode; the range's file */
  UNDERFOOT_FTRUNCATE,    /* the range's file becomes shorter */
  UNDERFOOT_WRITEPROTECT, /* argument: the mode; underfoot_uffd_writeprotect */
  UNDERFOOT_MOVE          /* underfoot_uffd_move: both places */
};

enum underfoot_effect {
  UNDERFOOT_NOTHING_GOES = 0, /* permissions become wider: told so that you know of their end */
  UNDERFOOT_WRITES_GO,        /* the pages stay where they are and cannot be written */
  UNDERFOOT_PAGES_GO          /* the pages go, move, change or cannot be read */
};

/* One attached range's part of a call. A call that touches a range in many places (process_madvise)
 * may be told as fewer and longer changes. The same object for begin and its end. */
struct underfoot_change {
  enum underfoot_call call;
  enum underfoot_effect effect;
  void* start;
  size_t length;
  int argument;
  int error;           /* end: 0, or the errno of the call that failed, maybe half-way */
  uint64_t scratch[8]; /* yours from begin to end; zeroes at begin */
};

struct underfoot_range {
  void* start;          /* of whole pages */
  size_t length;        /* in bytes, not 0 */
  int fd;               /* the file that is mapped there, or -1; need not stay open */
  uint64_t file_offset; /* of start */
  void* context;        /* handed to the callbacks */
  /* Before the call. It may sleep. It must not detach, and whatever it waits for must not wait for
   * this thread. */
  void (*begin)(void* context, struct underfoot_change* change);
  /* After the call: one for each begin, on the same thread. */
  void (*end)(void* context, struct underfoot_change* change);
};

/* From its return on each change of the range is told. Ranges may overlap: each is told. EINVAL: no
 * whole pages, or no callbacks; EBADF: fd is none; ENOSPC: UNDERFOOT_MAX_RANGES are attached;
 * ENOMEM. */
int underfoot_attach(const struct underfoot_range* range, uint64_t* handle);

/* Returns when each begin has had its end; from then on no callback runs. ENOENT: no such handle.
 */
int underfoot_detach(uint64_t handle);

uint32_t underfoot_hooks_version(void);

/* ioctl(uffd, UFFDIO_WRITEPROTECT) with mode 0 or UFFDIO_WRITEPROTECT_MODE_WP: 0, or -1 and errno.
 */
int underfoot_uffd_writeprotect(int uffd, void* start, size_t length, uint64_t mode);

/* ioctl(uffd, UFFDIO_MOVE), Linux 6.8: the bytes moved, or -1 and errno if there were none. */
ssize_t underfoot_uffd_move(int uffd, void* to, void* from, size_t length, uint64_t mode);

#ifdef __cplusplus
}
#endif

#endif /* UNDERFOOT_HOOKS_H_ */
