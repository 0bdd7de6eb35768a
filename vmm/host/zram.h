// zram devices, which the kernel makes when somebody reads a file, with the lowest number that is
// free. Nothing on a device says who made it. So the number that is to come is noted before, with
// the time, and of a run that was killed in between this is told:
//   ours     it has this number, came into being right then, and never got a size
//   unknown  it has this number and no size, and is older or younger: somebody else may have made
//   it none     there is none of this number, or it has a size, which ours never got
//
// Thread safety: one thread; other processes make devices meanwhile.

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

  // Whether this kernel makes devices.
  bool supported() const;
  // The number of the next one.
  std::string Next() const;
  // Nanoseconds since 1970, as OriginOf takes it.
  static std::string Now();

  // Its number, which is not the one of Next when somebody else made one meanwhile.
  absl::StatusOr<std::string> Make() const;
  absl::Status SetSize(const std::string& number, uint64_t bytes) const;
  // One that is not there is removed.
  absl::Status Remove(const std::string& number) const;
  std::string PathOf(const std::string& number) const { return places_.devices + "/zram" + number; }

  // Of a device that was to be made as `number` at `since`.
  ZramOrigin OriginOf(const std::string& number, const std::string& since) const;

 private:
  std::string Attribute(const std::string& number, const char* name) const;

  const HostPlaces places_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_ZRAM_H_
