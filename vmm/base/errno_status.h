// The error of a system call, with the remedy if it has met a limit of the process: too many
// descriptors, too long a file.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_BASE_ERRNO_STATUS_H_
#define UNDERFOOT_VMM_BASE_ERRNO_STATUS_H_

#include <sys/resource.h>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace underfoot {

constexpr bool IsLackOfDescriptors(int error) { return error == EMFILE || error == ENFILE; }

// "Too many open files; raise `ulimit -n`, which is 28": the error, and what helps against it if it is
// that of a limit.
[[nodiscard]] inline std::string ErrnoText(int error) {
  std::string text = std::generic_category().message(error);
  rlimit limit{};
  if (error == EMFILE && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    absl::StrAppendFormat(&text, "; raise `ulimit -n`, which is %u", limit.rlim_cur);
  }
  if (error == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    absl::StrAppendFormat(&text, "; raise `ulimit -f`, which allows %u bytes", limit.rlim_cur);
  }
  if (error == ENFILE) text += "; raise sysctl fs.file-max: the whole host has no more";
  return text;
}

// "WHAT; REMEDY: TEXT OF ERRNO", as absl::ErrnoToStatus says it. If a limit was met, the remedy of the
// call would be wrong, and that of the limit stands behind the text.
[[nodiscard]] inline absl::Status ErrnoStatus(int error, std::string_view what,
                                              std::string_view remedy = {}) {
  if (IsLackOfDescriptors(error) || error == EFBIG) {
    return absl::Status(absl::ErrnoToStatusCode(error),
                        absl::StrFormat("%s: %s", what, ErrnoText(error)));
  }
  return absl::ErrnoToStatus(error,
                             absl::StrFormat("%s%s%s", what, remedy.empty() ? "" : "; ", remedy));
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_ERRNO_STATUS_H_
