// The output of a command, and the detection of a reader that is gone.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_VMM_CLI_OUTPUT_H_
#define UNDERFOOT_VMM_CLI_OUTPUT_H_

#include <cstddef>
#include <functional>
#include <ostream>
#include <string>
#include <string_view>

namespace underfoot {

struct Output {
  std::ostream& out;
  std::ostream& err;
  // `out` is a terminal that interprets escapes: --watch clears the screen before each round.
  bool terminal = false;
  // The current height of the terminal; empty: any number of rows.
  std::function<size_t()> rows = {};
};

// Writes and flushes all of `text`. False: it cannot be written (a full disk, a closed pipe) and
// the reason has been written to `err`. Then the command must fail.
[[nodiscard]] bool Print(const Output& output, std::string_view text);

// The result of a write of one part of a stream.
enum class Written { kAll, kReaderLeft, kFailed };
// As Print, for a stream without an end of its own: the reader of a pipe ends it by leaving, as in
// `underfoot events | head -1`. That is no failure, and nothing is written to `err` then.
[[nodiscard]] Written PrintPart(const Output& output, std::string_view text);

// Must be called before the first file is opened: otherwise a file could get a closed descriptor
// from 0 to 2 and output would be written into it. After the call, a write to such an output fails.
// A write to a pipe without a reader also fails, instead of raising a signal.
void MakeWriteErrorsVisible();

// Whether escape sequences have an effect. `term` is the value of TERM; nullptr: not set.
bool InterpretsEscapes(bool terminal, const char* term);

// Whether to use colour: only on a terminal that can show it, and only if NO_COLOR is unset or
// empty. The arguments are the values of NO_COLOR and TERM; nullptr: not set.
bool WantsColour(bool terminal, const char* no_color, const char* term);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_OUTPUT_H_
