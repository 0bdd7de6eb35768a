// Checks whether a server listens on a Unix socket.
//
// Thread safety: a pure function of the file system. The answer may be outdated at once: code that
// acts on it must hold the lock of the directory (listener.cc).

#ifndef UNDERFOOT_VMM_CONTROL_PROBE_H_
#define UNDERFOOT_VMM_CONTROL_PROBE_H_

#include <cstdint>
#include <string>

namespace underfoot {

enum class SocketProbe : uint8_t {
  kAbsent,     // the path does not exist
  kLive,       // a server listens
  kStale,      // a socket without a server
  kNotSocket,  // another kind of file, which must not be touched
  kUnknown,    // it cannot be found out (no permission)
};

[[nodiscard]] SocketProbe ProbeSocket(const std::string& path);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_PROBE_H_
