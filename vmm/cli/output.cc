#include "vmm/cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace underfoot {

bool Print(const Output& output, std::string_view text) {
  errno = 0;
  output.out << text << std::flush;
  const int error = errno;
  if (output.out) return true;
  output.err << "underfoot: standard output cannot be written: "
             << (error == 0 ? "it failed before" : std::strerror(error)) << "\n";
  return false;
}

void MakeWriteErrorsVisible() {
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  // open() returns the lowest free number. It opens for reading only, so that a write fails.
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDONLY);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

bool WantsColour(bool terminal, const char* no_color, const char* term) {
  const std::string_view kind = term == nullptr ? "" : term;
  const bool refused = no_color != nullptr && *no_color != '\0';
  return terminal && !refused && !kind.empty() && kind != "dumb";
}

}  // namespace underfoot
