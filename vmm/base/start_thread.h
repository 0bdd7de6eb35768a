// Starts a thread; all threads of the program are started by this function. The host may have no
// room for another thread (RLIMIT_NPROC, the task limit of a cgroup, no memory for the stack). That
// is not a bug: the function returns an error, where std::thread would throw and end the process.
//
// Thread safety: a pure function.

#ifndef UNDERFOOT_VMM_BASE_START_THREAD_H_
#define UNDERFOOT_VMM_BASE_START_THREAD_H_

#include <cerrno>
#include <new>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace underfoot {

// On success `thread` is joinable; on error it is unchanged. `what` names the thread in the error
// message, for example "the auditor".
template <class Body>
[[nodiscard]] absl::Status StartThread(std::thread& thread, std::string_view what, Body&& body) {
  int error = ENOMEM;
  try {
    thread = std::thread(std::forward<Body>(body));
    return absl::OkStatus();
  } catch (const std::system_error& failed) {
    error = failed.code().value();
  } catch (const std::bad_alloc&) {
  }
  return absl::ResourceExhaustedError(absl::StrFormat(
      "no thread for %s: %s; raise `ulimit -u` (threads of this user) or `ulimit -v` (memory for "
      "its stack), or use fewer vCPUs",
      what, std::generic_category().message(error)));
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_START_THREAD_H_
