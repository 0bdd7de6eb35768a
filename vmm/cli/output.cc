#include "vmm/cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

namespace underfoot {

namespace {

// 0: all of it is written; otherwise the error, and -1 if an earlier write has failed.
int ErrorOfWriting(std::ostream& out, std::string_view text) {
  errno = 0;
  out << text << std::flush;
  const int error = errno;
  if (out) return 0;
  return error == 0 ? -1 : error;
}

void Report(const Output& output, int error) {
  output.err << "underfoot: standard output cannot be written: "
             << (error == -1 ? "it failed before" : std::strerror(error)) << "\n";
}

}  // namespace

bool Print(const Output& output, std::string_view text) {
  const int error = ErrorOfWriting(output.out, text);
  if (error != 0) Report(output, error);
  return error == 0;
}

Written PrintPart(const Output& output, std::string_view text) {
  const int error = ErrorOfWriting(output.out, text);
  if (error == 0) return Written::kAll;
  if (error == EPIPE) return Written::kReaderLeft;
  Report(output, error);
  return Written::kFailed;
}

void MakeWriteErrorsVisible() {
  static_cast<void>(std::signal(SIGPIPE, SIG_IGN));
  static_cast<void>(std::signal(SIGXFSZ, SIG_IGN));  // a file longer than `ulimit -f` allows
  // open() returns the lowest free number. It opens for reading only, so that a write fails.
  int fd = 0;
  do {
    fd = open("/dev/null", O_RDONLY);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

bool InterpretsEscapes(bool terminal, const char* term) {
  const std::string_view kind = term == nullptr ? "" : term;
  return terminal && !kind.empty() && kind != "dumb";
}

bool WantsColour(bool terminal, const char* no_color, const char* term) {
  const bool refused = no_color != nullptr && *no_color != '\0';
  return !refused && InterpretsEscapes(terminal, term);
}

}  // namespace underfoot
