// Whether anybody listens on a Unix socket.
//
// Thread safety: a pure function of the file system. The answer may be old when it is read; who
// acts on it holds the lock of the directory (listener.cc).

#ifndef UNDERFOOT_VMM_CONTROL_PROBE_H_
#define UNDERFOOT_VMM_CONTROL_PROBE_H_

#include <cstdint>
#include <string>

namespace underfoot {

enum class SocketProbe : uint8_t {
  kAbsent,     // no such path
  kLive,       // a server listens
  kStale,      // a socket whose server is gone
  kNotSocket,  // something else, not ours to touch
  kUnknown,    // it cannot be told (no permission)
};

[[nodiscard]] SocketProbe ProbeSocket(const std::string& path);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CONTROL_PROBE_H_
