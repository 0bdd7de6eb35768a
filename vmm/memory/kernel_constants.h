// Constants of newer kernels than the headers this is built with, and the version that brought
// each.

#ifndef UNDERFOOT_VMM_MEMORY_KERNEL_CONSTANTS_H_
#define UNDERFOOT_VMM_MEMORY_KERNEL_CONSTANTS_H_

namespace underfoot {

inline constexpr int kMadvCollapse = 25;  // MADV_COLLAPSE, Linux 6.1; not in glibc 2.36

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_KERNEL_CONSTANTS_H_
