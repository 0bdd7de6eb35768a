#include "vmm/cli/console.h"

#include <sys/ioctl.h>
#include <unistd.h>

namespace underfoot {
namespace {

constexpr size_t kDefaultColumns = 80;
constexpr char kClearLine[] = "\r\033[K";

void Write(std::FILE* stream, std::string_view text) {
  // A terminal that has gone away is no reason to stop a machine.
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stream));
}

}  // namespace

Console::Console(std::FILE* stream) : stream_(stream), terminal_(isatty(fileno(stream)) == 1) {}

Console::~Console() { Status(""); }

size_t Console::columns() const {
  winsize size{};
  if (ioctl(fileno(stream_), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultColumns;
  return size.ws_col;
}

void Console::Line(std::string_view text) {
  absl::MutexLock lock(&mutex_);
  ClearStatusLocked();
  Write(stream_, text);
  Write(stream_, "\n");
  Write(stream_, status_);
  static_cast<void>(std::fflush(stream_));
}

void Console::Status(std::string_view text) {
  if (!terminal_) return;
  absl::MutexLock lock(&mutex_);
  ClearStatusLocked();
  status_ = text;
  Write(stream_, status_);
  static_cast<void>(std::fflush(stream_));
}

void Console::ClearStatusLocked() {
  if (!status_.empty()) Write(stream_, kClearLine);
}

}  // namespace underfoot
