// A setting of the kernel: a small file of /proc/sys or /sys.
//
// Thread safety: pure functions on files.

#ifndef UNDERFOOT_VMM_HOST_KNOB_H_
#define UNDERFOOT_VMM_HOST_KNOB_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace underfoot {

// Returns the content without the newline. If the file offers a choice ("always [madvise] never"),
// returns the word in brackets.
absl::StatusOr<std::string> ReadKnob(const std::string& path);
// Writes the value in one write(2), as the kernel requires.
absl::Status WriteKnob(const std::string& path, const std::string& value);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_KNOB_H_
