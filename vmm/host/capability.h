// Checks whether the calling thread has a capability now.

#ifndef UNDERFOOT_VMM_HOST_CAPABILITY_H_
#define UNDERFOOT_VMM_HOST_CAPABILITY_H_

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

namespace underfoot {

// `capability`: CAP_SYS_ADMIN, ...
inline bool HasCapability(unsigned capability) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> data{};
  if (syscall(SYS_capget, &header, data.data()) != 0) return false;
  return (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_CAPABILITY_H_
