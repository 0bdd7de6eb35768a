// The terminal of `underfoot run`: whole lines from many threads, and one status line that stays at
// the bottom where there is a terminal.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_VMM_CLI_CONSOLE_H_
#define UNDERFOOT_VMM_CLI_CONSOLE_H_

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace underfoot {

class Console {
 public:
  // The stream outlives the console.
  explicit Console(std::FILE* stream);
  ~Console();  // clears the status line
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool terminal() const { return terminal_; }
  size_t columns() const;

  void Line(std::string_view text) ABSL_LOCKS_EXCLUDED(mutex_);
  // Shown on a terminal only. Empty: none.
  void Status(std::string_view text) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void ClearStatusLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::FILE* const stream_;
  const bool terminal_;
  // Guards: the stream. Order: innermost. Held across a write, so only by threads that may wait for
  // one.
  absl::Mutex mutex_;
  std::string status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_CONSOLE_H_
