// The keyboard of `underfoot run --console`: what is typed goes to the guest. A terminal is in raw mode
// as long as an object of this class lives, and its size is passed on; a pipe or a file is read to its
// end.
//
// Thread safety: Start and the destructor by the owner; Restore by any thread.

#ifndef UNDERFOOT_VMM_CLI_GUEST_TERMINAL_H_
#define UNDERFOOT_VMM_CLI_GUEST_TERMINAL_H_

#include <termios.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

class GuestTerminal {
 public:
  // Typed on a terminal, it calls `quit`.
  static constexpr char kQuitKey = 0x1d;  // Ctrl-]

  // Called by a thread of this class.
  struct Sinks {
    std::function<size_t(std::string_view bytes)> type;  // returns how many bytes were taken
    std::function<void()> quit;
    // At the start and after each change, if the input is a terminal.
    std::function<void(uint16_t columns, uint16_t rows)> resize;
  };

  // The kernel reports a change of the size by SIGWINCH, which this class reads from a descriptor.
  // Must be called before the process has a second thread: a thread that does not block the signal
  // would swallow it.
  static void BlockSignals();

  static absl::StatusOr<std::unique_ptr<GuestTerminal>> Start(int input, Sinks sinks);
  ~GuestTerminal();
  GuestTerminal(const GuestTerminal&) = delete;
  GuestTerminal& operator=(const GuestTerminal&) = delete;

  // Gives the terminal its mode back. Idempotent; async-signal-safe.
  void Restore() const;

 private:
  GuestTerminal(int input, Sinks sinks, UniqueFd stop, UniqueFd resized)
      : input_(input),
        sinks_(std::move(sinks)),
        stop_(std::move(stop)),
        resized_(std::move(resized)) {}

  absl::Status MakeRaw();
  void Main() const;
  void PassSize() const;
  // False: the operator asked for the end, or this object ends.
  bool Pass(std::string_view bytes) const;
  // Whether `stop_` was signalled; waits at most so long for it.
  bool StopsWithin(int milliseconds) const;

  const int input_;
  const Sinks sinks_;
  const UniqueFd stop_;            // an eventfd
  const UniqueFd resized_;         // a signalfd
  std::optional<termios> before_;  // absent: no terminal
  std::thread thread_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_GUEST_TERMINAL_H_
