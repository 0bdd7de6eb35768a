#include "vmm/cli/console.h"

#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

constexpr size_t kDefaultColumns = 80;
// The console waits this long, once, for a reader that has stopped. After that, output that the
// reader does not accept at once is dropped. The end of a machine waits longer than that for the worker
// of a guest's console (Machine::StopDevices).
constexpr int kPatienceMs = 500;
constexpr char kClearLine[] = "\r\033[K";

// A pipe or a terminal that accepts any bytes accepts this many without blocking.
constexpr size_t kPiece = PIPE_BUF;

bool TakesMore(int fd, int milliseconds) {
  pollfd stream{.fd = fd, .events = POLLOUT, .revents = 0};
  return poll(&stream, 1, milliseconds) == 1;
}

}  // namespace

size_t WriteIfTaken(int fd, std::string_view text, int patience_ms) {
  size_t written = 0;
  while (written < text.size() && TakesMore(fd, patience_ms)) {
    const ssize_t bytes = write(fd, text.data() + written, std::min(kPiece, text.size() - written));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) break;  // if the reader has gone away, the machine continues
    written += static_cast<size_t>(bytes);
  }
  return written;
}

Console::Console(std::FILE* stream) : stream_(stream), terminal_(isatty(fileno(stream)) == 1) {}

std::string Printable(std::string_view text) {
  std::string printable;
  for (const char c : text) {
    if (absl::ascii_isprint(static_cast<unsigned char>(c))) {
      printable += c;
    } else {
      absl::StrAppendFormat(&printable, "\\x%02x", static_cast<unsigned char>(c));
    }
  }
  return printable;
}

bool LineBudget::Take(Clock::time_point now, uint64_t* skipped) {
  constexpr auto kLine = std::chrono::nanoseconds(std::chrono::seconds(1)) / kPerSecond;
  full_at_ = std::max(full_at_, now);
  if (full_at_ - now > kLine * (kBurst - 1)) {
    ++skipped_;
    return false;
  }
  full_at_ += kLine;
  *skipped = std::exchange(skipped_, 0);
  return true;
}

Console::~Console() {
  Status("");
  absl::MutexLock lock(&mutex_);
  SayWhatIsMissingLocked(guest_budget_.skipped());
}

size_t Console::columns() const {
  winsize size{};
  if (ioctl(fileno(stream_), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kDefaultColumns;
  return size.ws_col;
}

void Console::Line(std::string_view text) {
  absl::MutexLock lock(&mutex_);
  LineLocked(text);
}

void Console::GuestLine(unsigned vcpu, std::string_view line) {
  absl::MutexLock lock(&mutex_);
  uint64_t skipped = 0;
  if (!guest_budget_.Take(LineBudget::Clock::now(), &skipped)) return;
  SayWhatIsMissingLocked(skipped);
  LineLocked(absl::StrFormat("[vcpu %u] %s", vcpu, Printable(line)));
}

void Console::GuestBytes(std::string_view bytes) {
  absl::MutexLock lock(&mutex_);
  WriteLocked(bytes);
}

void Console::SayWhatIsMissingLocked(uint64_t lines) {
  if (lines == 0) return;
  LineLocked(absl::StrFormat(
      "[guest] %u lines are left out: at most %d a second are shown, after the first %d", lines,
      LineBudget::kPerSecond, LineBudget::kBurst));
}

void Console::LineLocked(std::string_view text) {
  std::string all(status_.empty() ? "" : kClearLine);
  all.append(text).append("\n").append(status_);
  WriteLocked(all);
}

void Console::Status(std::string_view text) {
  if (!terminal_) return;
  absl::MutexLock lock(&mutex_);
  std::string all(status_.empty() ? "" : kClearLine);
  status_ = text;
  WriteLocked(all + status_);
}

void Console::WriteLocked(std::string_view text) {
  static_cast<void>(std::fflush(stream_));  // writes what other code has buffered in this stream
  const bool whole = WriteIfTaken(fileno(stream_), text, stalled_ ? 0 : kPatienceMs) == text.size();
  stalled_ = !whole;
}

}  // namespace underfoot
