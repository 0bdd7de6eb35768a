// The paths at which the host is changed and the changes are recorded. A test uses other paths, so
// that it changes only files of its own.
//
// Thread safety: a value.

#ifndef UNDERFOOT_VMM_HOST_HOST_PLACES_H_
#define UNDERFOOT_VMM_HOST_HOST_PLACES_H_

#include <string>

namespace underfoot {

struct HostPlaces {
  std::string journal = "/run/underfoot/host-changes";  // empty after a reboot
  std::string swap_files = "/var/tmp";                  // not empty after a reboot
  std::string zram_control = "/sys/class/zram-control";
  std::string block = "/sys/block";
  std::string devices = "/dev";
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HOST_PLACES_H_
