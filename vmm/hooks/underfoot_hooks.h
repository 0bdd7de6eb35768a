/*
 * libunderfoot_hooks: a program registers ranges of its memory, and two callbacks are called for
 * each call in its own process that changes one of them: `begin` before the change and `end` after
 * it. It does for a program what mmu_notifier does for the secondary MMUs of the kernel.
 *
 *   underfoot_attach(&range, &handle)    the range has the callbacks `begin` and `end`
 *
 *   some library:  madvise(p, n, MADV_DONTNEED)
 *                    begin(change)     drop what you know of the pages, wait for their users
 *                    the call itself
 *                    end(change)       you may look at the pages again
 *
 * Link the program with -lunderfoot_hooks, before other libraries that define the same names, or
 * preload the library. It defines the names
 *   madvise process_madvise munmap mremap mprotect pkey_mprotect mmap mmap64
 *   fallocate fallocate64 ftruncate ftruncate64 brk sbrk shmat shmdt
 * and passes each call on to the next definition of the name: another tool's, or libc's. A call
 * outside of all attached ranges costs two comparisons; a call between two attached ranges costs a
 * look-up. Once a range of any file is attached, fallocate and ftruncate also find out which file
 * their descriptor has. process_madvise also finds out which process it acts on. Results and errno
 * are those of the call.
 *
 * Not reported, because it does not go through these names:
 *   - calls inside libc: free, realloc, malloc_trim, the end of a thread's stack; and calls of the
 *     dynamic linker
 *   - calls of a library that was opened with RTLD_DEEPBIND, or is linked statically to a libc
 *   - system calls by syscall(2) or in assembly, and io_uring (IORING_OP_MADVISE, _FALLOCATE,
 *     _FTRUNCATE)
 *   - truncate(2) and open(O_TRUNC) of the file behind a range, mbind, move_pages, set_mempolicy,
 *     remap_file_pages, ioctl. For UFFDIO_WRITEPROTECT and UFFDIO_MOVE there are functions here
 *   - what other processes do, and what the kernel does by itself: reclaim, migration, compaction,
 *     merging of pages, the copy at the first write after a fork
 * posix_madvise changes no page in glibc, nor does posix_fallocate.
 *
 * The reported range is the range that the kernel changes, even where it rounds up to huge pages or
 * changes a file that is mapped in several places. Where that range cannot be found out cheaply,
 * the report covers more: mprotect with PROT_GROWSDOWN or PROT_GROWSUP, mmap(MAP_HUGETLB) without a
 * size in its flags (up to 1 GiB), shmat(SHM_REMAP), and before Linux 6.11 shmdt, mremap of locked
 * or huge pages, and an advice that removes pages of a file through a mapping that is not attached.
 *
 * A range does not grow. If its mapping grows in place (mremap, sbrk, a stack), attach the new part
 * as well.
 *
 * Units: addresses and lengths are in bytes; changes are reported in whole pages of 4096 bytes.
 * Errors: underfoot_attach and underfoot_detach return 0 or an errno value, and do not change
 * errno. A call that touches more than three ranges needs memory for the time of the call. Without
 * it, the call fails with ENOMEM and changes nothing. Thread safety: any thread. The look-up of
 * attached ranges takes no lock. Calls in several threads run in parallel, and so do their
 * callbacks. The library stays in memory after dlclose. Signals: a handler may make any of the
 * calls, unless its callbacks forbid it, but it must not attach or detach. Until `begin` runs, and
 * until `end` runs, a call that touches up to three ranges needs less than 1 KiB of stack.
 * Compilers: glibc declares most of these names with the attribute `leaf`, so the compiler may
 *   assume that they do not call back into your file. Variables that callbacks in that file change,
 *   and that the code around the call reads, must be atomic.
 * Fork: in the child nothing is attached; if a callback forks, the child gets no `end`. A child of
 *   vfork shares the memory and the ranges. For the parent see UNDERFOOT_TELL_FORK.
 */

#ifndef UNDERFOOT_HOOKS_H_
#define UNDERFOOT_HOOKS_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The major version is in the upper 16 bits. A different one means an incompatible interface. */
#define UNDERFOOT_HOOKS_VERSION UINT32_C(0x00020000)

/* The most ranges that can be attached at the same time. */
#define UNDERFOOT_MAX_RANGES 16384

enum underfoot_call {
  UNDERFOOT_MADVISE = 1,  /* argument: the advice; also process_madvise on this process */
  UNDERFOOT_MUNMAP,       /* also shmdt, and brk and sbrk if the heap shrinks */
  UNDERFOOT_MREMAP,       /* argument: the flags; the old place and, if fixed, the new one */
  UNDERFOOT_MPROTECT,     /* argument: the protection */
  UNDERFOOT_MMAP,         /* argument: the flags; MAP_FIXED over the range; also shmat(SHM_REMAP) */
  UNDERFOOT_FALLOCATE,    /* argument: the mode; a change of the range's file */
  UNDERFOOT_FTRUNCATE,    /* the range's file shrinks */
  UNDERFOOT_WRITEPROTECT, /* argument: the mode; underfoot_uffd_writeprotect */
  UNDERFOOT_MOVE,         /* argument: the userfaultfd; underfoot_uffd_move: both places */
  UNDERFOOT_FORK          /* only with UNDERFOOT_TELL_FORK */
};

/* For underfoot_range.flags. */
enum underfoot_range_flags {
  /* Report fork() too, in the parent. fork() write-protects private pages, and the first write to
   * each page copies it to another frame, which is not reported. Either make all of these copies in
   * `end`, with MADV_POPULATE_WRITE, or forget what you know of a page until it is written. */
  UNDERFOOT_TELL_FORK = 1,
  /* Attach even if some of the names do not lead here: you know which calls are not reported. */
  UNDERFOOT_ACCEPT_UNSEEN = 2
};

enum underfoot_effect {
  UNDERFOOT_NOTHING_GOES = 0, /* permissions become wider; reported because restricted ones end */
  UNDERFOOT_WRITES_GO,        /* the pages stay in place and can no longer be written */
  UNDERFOOT_PAGES_GO          /* the pages are removed, move, change or cannot be read */
};

/* The part of a call that touches one attached range. A call that touches a range in many places
 * (process_madvise) may be reported as fewer and longer changes. `begin` and its `end` get the same
 * object. */
struct underfoot_change {
  enum underfoot_call call;
  enum underfoot_effect effect;
  void* start;
  size_t length;
  int argument;
  int error;           /* for end: 0, or the errno of the failed call, which may be half done */
  uint64_t scratch[8]; /* for your use from begin to end; zeroes at begin */
};

struct underfoot_range {
  void* start;          /* a page boundary */
  size_t length;        /* in bytes: whole pages, not 0 */
  int fd;               /* the file that is mapped there, or -1; it may be closed afterwards */
  uint64_t file_offset; /* the offset in the file at start */
  void* context;        /* passed to the callbacks */
  /* Called before the call. It may sleep. It must not detach, and it must not wait for anything
   * that waits for this thread. */
  void (*begin)(void* context, struct underfoot_change* change);
  /* Called after the call, once for each begin, in the same thread. */
  void (*end)(void* context, struct underfoot_change* change);
  unsigned flags; /* of enum underfoot_range_flags */
};

/* From its return on, each change of the range is reported. Ranges may overlap; a change is
 * reported to each of them. EINVAL: not whole pages, no callbacks, or unknown flags; EBADF: fd is
 * no open descriptor; ENOSPC: UNDERFOOT_MAX_RANGES are attached; ENOMEM; ENOTSUP: some names of
 * this program do not lead here (the first attach runs underfoot_hooks_selftest), and
 * underfoot_strerror names them. */
int underfoot_attach(const struct underfoot_range* range, uint64_t* handle);

/* Returns when the `end` of each `begin` has returned. After that no callback of the range runs.
 * Like underfoot_attach, it takes time in proportion to the number of attached ranges. ENOENT: no
 * such handle. */
int underfoot_detach(uint64_t handle);

/* Makes each call by the name as this program resolves it, on a page of its own and so that it
 * changes nothing. Returns a bit for each name whose call arrived here, in the order above; madvise
 * is bit 0. UNDERFOOT_ALL_NAMES: all of them arrived. */
#define UNDERFOOT_ALL_NAMES UINT32_C(0xffff)
uint32_t underfoot_hooks_selftest(void);

/* The name of a bit above, counted from 0; NULL: there is no such bit. */
const char* underfoot_hooks_name(unsigned bit);

/* One line that explains an error of underfoot_attach or underfoot_detach. For ENOTSUP it names the
 * calls that did not arrive here in the last self-test. */
const char* underfoot_strerror(int error);

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
