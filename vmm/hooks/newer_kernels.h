// What the 6.1 headers of Debian 12 do not have yet, each with the kernel that brought it.
//
// Thread safety: constants.

#ifndef UNDERFOOT_VMM_HOOKS_NEWER_KERNELS_H_
#define UNDERFOOT_VMM_HOOKS_NEWER_KERNELS_H_

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
  int64_t move;  // written by the kernel: bytes moved, or a negative errno
};
inline constexpr unsigned long kUffdioMove = _IOWR(UFFDIO, 0x05, UffdioMove);

// ioctl of /proc/PID/pagemap: 6.7
struct PagemapScan {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;  // written by the kernel: where it stopped
  uint64_t vec;       // of PagemapRegion
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;        // all of these
  uint64_t category_anyof_mask;  // and one of these
  uint64_t return_mask;
};
struct PagemapRegion {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, PagemapScan);
inline constexpr uint64_t kPagemapScanProtect = uint64_t{1} << 0;  // write-protect what was found
inline constexpr uint64_t kPageIsWritten = uint64_t{1} << 1;
inline constexpr uint64_t kPageIsPresent = uint64_t{1} << 3;
inline constexpr uint64_t kPageIsSwapped = uint64_t{1} << 4;

}  // namespace underfoot::newer

#endif  // UNDERFOOT_VMM_HOOKS_NEWER_KERNELS_H_
