#include "vmm/cli/guest_terminal.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "vmm/base/errno_status.h"
#include "vmm/base/start_thread.h"

namespace underfoot {
namespace {

// The guest has not read what it was sent: a person types slower, but a pipe does not.
constexpr int kGuestIsBusyMs = 10;

sigset_t ResizeSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGWINCH);
  return signals;
}

}  // namespace

void GuestTerminal::BlockSignals() {
  const sigset_t signals = ResizeSignal();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

absl::StatusOr<std::unique_ptr<GuestTerminal>> GuestTerminal::Start(int input, Sinks sinks) {
  UniqueFd stop(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return ErrnoStatus(errno, "eventfd of the console");
  const sigset_t signals = ResizeSignal();
  UniqueFd resized(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!resized.valid()) return ErrnoStatus(errno, "signalfd of the console");
  std::unique_ptr<GuestTerminal> terminal(
      new GuestTerminal(input, std::move(sinks), std::move(stop), std::move(resized)));
  if (absl::Status raw = terminal->MakeRaw(); !raw.ok()) return raw;
  absl::Status started = StartThread(terminal->thread_, "the console's keyboard",
                                     [self = terminal.get()] { self->Main(); });
  if (!started.ok()) return started;
  return terminal;
}

GuestTerminal::~GuestTerminal() {
  static_cast<void>(eventfd_write(stop_.get(), 1));
  if (thread_.joinable()) thread_.join();
  Restore();
}

// The output keeps its mode: the lines of this program end with a line feed alone.
absl::Status GuestTerminal::MakeRaw() {
  termios mode{};
  if (isatty(input_) != 1) return absl::OkStatus();
  if (tcgetattr(input_, &mode) != 0) return absl::ErrnoToStatus(errno, "tcgetattr of the console");
  before_ = mode;
  mode.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG | IEXTEN);
  mode.c_iflag &= ~static_cast<tcflag_t>(ICRNL | INLCR | IGNCR | IXON | ISTRIP | BRKINT);
  mode.c_cc[VMIN] = 1;
  mode.c_cc[VTIME] = 0;
  if (tcsetattr(input_, TCSANOW, &mode) != 0) {
    return absl::ErrnoToStatus(errno, "tcsetattr of the console");
  }
  return absl::OkStatus();
}

void GuestTerminal::Restore() const {
  if (before_.has_value()) static_cast<void>(tcsetattr(input_, TCSANOW, &*before_));
}

void GuestTerminal::PassSize() const {
  winsize size{};
  if (!before_.has_value() || ioctl(input_, TIOCGWINSZ, &size) != 0) return;
  sinks_.resize(size.ws_col, size.ws_row);
}

void GuestTerminal::Main() const {
  PassSize();
  for (;;) {
    std::array<pollfd, 3> fds = {{{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                                  {.fd = input_, .events = POLLIN, .revents = 0},
                                  {.fd = resized_.get(), .events = POLLIN, .revents = 0}}};
    if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    signalfd_siginfo signal{};
    if (fds[2].revents != 0 && read(resized_.get(), &signal, sizeof(signal)) > 0) PassSize();
    if (fds[1].revents == 0) continue;
    std::array<char, 256> bytes;
    const ssize_t got = read(input_, bytes.data(), bytes.size());
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return;  // its end: the guest runs on without a keyboard
    if (!Pass({bytes.data(), static_cast<size_t>(got)})) return;
  }
}

bool GuestTerminal::Pass(std::string_view bytes) const {
  const size_t end = before_.has_value() ? bytes.find(kQuitKey) : std::string_view::npos;
  std::string_view rest = bytes.substr(0, end);
  while (!rest.empty()) {
    rest.remove_prefix(sinks_.type(rest));
    if (!rest.empty() && StopsWithin(kGuestIsBusyMs)) return false;
  }
  if (end == std::string_view::npos) return true;
  sinks_.quit();
  return false;
}

bool GuestTerminal::StopsWithin(int milliseconds) const {
  pollfd stop{.fd = stop_.get(), .events = POLLIN, .revents = 0};
  return poll(&stop, 1, milliseconds) == 1;
}

}  // namespace underfoot
