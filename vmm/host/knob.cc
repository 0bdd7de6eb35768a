#include "vmm/host/knob.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

absl::StatusOr<std::string> ReadKnob(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer{};
  const ssize_t bytes = fd.valid() ? read(fd.get(), buffer.data(), buffer.size()) : -1;
  if (bytes < 0) return ErrnoStatus(errno, absl::StrFormat("reading %s", path));
  std::string text(buffer.data(), static_cast<size_t>(bytes));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t open_bracket = text.find('[');
  const size_t close_bracket = text.find(']', open_bracket);
  if (open_bracket == std::string::npos || close_bracket == std::string::npos) return text;
  return text.substr(open_bracket + 1, close_bracket - open_bracket - 1);
}

absl::Status WriteKnob(const std::string& path, const std::string& value) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() &&
      write(fd.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) {
    return absl::OkStatus();
  }
  return ErrnoStatus(errno, absl::StrFormat("writing '%s' to %s", value, path));
}

}  // namespace underfoot
