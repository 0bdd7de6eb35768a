// zram devices. The kernel makes a device when a process reads a certain file, and gives it the
// lowest free number. Nothing on a device shows which process made it. Therefore the number that
// the device will get is noted before, with the time. If the run is killed in between, the device
// is classified as:
//   ours     it has this number, was created just after the note, and never got a size
//   unknown  it has this number and no size, but was created at another time: another process may
//            have made it
//   none     there is no device of this number, or it has a size, which ours never got
//
// Thread safety: one thread. Other processes may make devices at the same time.

#ifndef UNDERFOOT_VMM_HOST_ZRAM_H_
#define UNDERFOOT_VMM_HOST_ZRAM_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/host/host_places.h"

namespace underfoot {

enum class [[nodiscard]] ZramOrigin : uint8_t{kOurs, kUnknown, kNone};

class Zram {
 public:
  explicit Zram(HostPlaces places) : places_(std::move(places)) {}

  // Whether this kernel can make zram devices.
  bool supported() const;
  // The number that the next device would get.
  std::string Next() const;
  // The time in nanoseconds since 1970, in the form that OriginOf expects.
  static std::string Now();

  // Makes a device and returns its number. That differs from Next if another process made a device
  // in between.
  absl::StatusOr<std::string> Make() const;
  absl::Status SetSize(const std::string& number, uint64_t bytes) const;
  // A device that does not exist counts as removed.
  absl::Status Remove(const std::string& number) const;
  std::string PathOf(const std::string& number) const { return places_.devices + "/zram" + number; }

  // The origin of a device that was to be made as `number` at the time `since`.
  ZramOrigin OriginOf(const std::string& number, const std::string& since) const;

 private:
  std::string Attribute(const std::string& number, const char* name) const;

  const HostPlaces places_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_ZRAM_H_
