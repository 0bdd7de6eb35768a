// The terminal of `underfoot run`: whole lines from many threads, and, on a terminal, one status
// line that stays at the bottom.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_CLI_CONSOLE_H_
#define UNDERFOOT_VMM_CLI_CONSOLE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace underfoot {

// Replaces everything in `text` except printable ASCII by \\xNN. So text from another program
// cannot move the cursor, clear the screen or change earlier lines.
std::string Printable(std::string_view text);

// Limits the number of lines: a burst at first, and then a fixed number per second.
//
// Thread safety: one thread at a time.
class LineBudget {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kBurst = 1000;
  static constexpr int kPerSecond = 200;

  // False: the line must be dropped. The number of lines dropped since the last true result is
  // added to `skipped`.
  [[nodiscard]] bool Take(Clock::time_point now, uint64_t* skipped);
  // The number of dropped lines that no Take has reported yet.
  uint64_t skipped() const { return skipped_; }

 private:
  Clock::time_point full_at_;  // from this time on a whole burst is available again
  uint64_t skipped_ = 0;
};

// Writes as much as `fd` accepts, and waits at most `patience_ms` for each piece. Returns the
// number of bytes written.
size_t WriteIfTaken(int fd, std::string_view text, int patience_ms = 0);

// Output that the reader does not accept is dropped: a stopped pager, a full pipe or a closed
// terminal delays neither the guest, whose lines are printed here, nor the end of the run.
class Console {
 public:
  // The stream must outlive the console.
  explicit Console(std::FILE* stream);
  ~Console();  // clears the status line; reports dropped lines of the guest
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool terminal() const { return terminal_; }
  size_t columns() const;

  void Line(std::string_view text) ABSL_LOCKS_EXCLUDED(mutex_);
  // Prints a line of the guest's serial port, made printable, with the vCPU in front. If a guest
  // writes more than LineBudget allows, lines are dropped, and the console reports how many.
  void GuestLine(unsigned vcpu, std::string_view line) ABSL_LOCKS_EXCLUDED(mutex_);
  // Prints what a guest's terminal receives, as it is.
  void GuestBytes(std::string_view bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Sets the status line, which is shown only on a terminal. Empty: none.
  void Status(std::string_view text) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void LineLocked(std::string_view text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SayWhatIsMissingLocked(uint64_t lines) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteLocked(std::string_view text) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::FILE* const stream_;
  const bool terminal_;
  // Guards: the stream. Order: innermost. It is held across a write, which may wait once, for
  // half a second, for a reader that has stopped.
  absl::Mutex mutex_;
  std::string status_ ABSL_GUARDED_BY(mutex_);
  LineBudget guest_budget_ ABSL_GUARDED_BY(mutex_);
  bool stalled_ ABSL_GUARDED_BY(mutex_) = false;  // the reader did not accept the last write
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_CONSOLE_H_
