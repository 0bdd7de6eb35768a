// Constants and structs of the kernel's interface that the 6.1 headers of Debian 12 lack, each with
// the kernel version that introduced it.
//
// Thread safety: constants.

#ifndef UNDERFOOT_VMM_BASE_NEWER_KERNELS_H_
#define UNDERFOOT_VMM_BASE_NEWER_KERNELS_H_

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace underfoot::newer {

// madvise(2)
inline constexpr int kMadvCollapse = 25;       // 6.1, not in glibc 2.36
inline constexpr int kMadvSoftOffline = 101;   // 2.6.33, not in glibc 2.36
inline constexpr int kMadvGuardInstall = 102;  // 6.13
inline constexpr int kMadvGuardRemove = 103;   // 6.13

// fallocate(2)
inline constexpr int kFallocWriteZeroes = 0x80;  // 6.17

// userfaultfd
inline constexpr uint64_t kUffdFeatureWpAsync = uint64_t{1} << 15;  // 6.7
inline constexpr uint64_t kUffdFeatureMove = uint64_t{1} << 16;     // 6.8

struct UffdioMove {  // 6.8
  uint64_t dst;
  uint64_t src;
  uint64_t len;
  uint64_t mode;
  int64_t move;  // written by the kernel: the number of bytes moved, or a negative errno
};
inline constexpr unsigned long kUffdioMove = _IOWR(UFFDIO, 0x05, UffdioMove);

// ioctl of /proc/PID/pagemap: 6.7
struct PagemapScan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;  // written by the kernel: the address at which the scan stopped
  uint64_t vec;       // address of an array of PagemapRegion
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;        // a page must have all of these categories
  uint64_t category_anyof_mask;  // and at least one of these
  uint64_t return_mask;
};
struct PagemapRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
// Write-protect the pages that were found.
inline constexpr uint64_t kPagemapScanProtect = uint64_t{1} << 0;
inline constexpr uint64_t kPageIsWritten = uint64_t{1} << 1;
inline constexpr uint64_t kPageIsPresent = uint64_t{1} << 3;
inline constexpr uint64_t kPageIsSwapped = uint64_t{1} << 4;

// ioctl of /proc/PID/maps: 6.11
struct ProcmapQuery {
  uint64_t size;
  uint64_t query_flags;
  uint64_t query_addr;
  uint64_t vma_start;  // the kernel writes this field and all that follow
  uint64_t vma_end;
  uint64_t vma_flags;
  uint64_t vma_page_size;
  uint64_t vma_offset;
  uint64_t inode;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint32_t vma_name_size;
  uint32_t build_id_size;
  uint64_t vma_name_addr;
  uint64_t build_id_addr;
};
inline constexpr unsigned long kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
inline constexpr uint64_t kProcmapCoveringOrNext = 0x10;
inline constexpr uint64_t kProcmapVmaReadable = 1;  // of vma_flags, as the next
inline constexpr uint64_t kProcmapVmaWritable = 2;

}  // namespace underfoot::newer

#endif  // UNDERFOOT_VMM_BASE_NEWER_KERNELS_H_
