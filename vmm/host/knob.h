// A knob of the kernel: a small file of /proc/sys or /sys.
//
// Thread safety: pure functions on files.

#ifndef UNDERFOOT_VMM_HOST_KNOB_H_
#define UNDERFOOT_VMM_HOST_KNOB_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace underfoot {

// Its content without the end of the line. A knob that offers a choice ("always [madvise] never")
// holds what is in brackets.
absl::StatusOr<std::string> ReadKnob(const std::string& path);
// In one write, as the kernel wants it.
absl::Status WriteKnob(const std::string& path, const std::string& value);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_KNOB_H_
