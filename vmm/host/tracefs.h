// Reads the kernel's descriptions of its tracepoints: finds tracefs, and reads the format file of
// one event.
//
// If tracefs is mounted anywhere, that mount is used. If not, Open makes a detached mount: it is
// attached to no directory, exists only as a descriptor of this process, and ends with it. The host
// does not change, so nothing has to be undone.
//
// Thread safety: const calls from any thread.
// After: Documentation/trace/events.rst in Linux, fsopen(2), fsmount(2).

#ifndef UNDERFOOT_VMM_HOST_TRACEFS_H_
#define UNDERFOOT_VMM_HOST_TRACEFS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <istream>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace underfoot {

// A field in the raw data of an event; only unsigned numbers are supported.
struct TraceField {
  uint32_t offset = 0;
  uint32_t size = 0;  // in bytes, 4 or 8

  // nullopt: `raw` is too short for it.
  std::optional<uint64_t> In(std::span<const std::byte> raw) const {
    if (raw.size() < offset || raw.size() - offset < size) return std::nullopt;
    uint64_t value = 0;
    std::memcpy(&value, raw.data() + offset, size);
    return value;
  }
};

struct TraceEvent {
  uint64_t id = 0;
  std::map<std::string, TraceField, std::less<>> fields;

  // NotFound: the event of this kernel has no such field.
  absl::StatusOr<TraceField> Field(std::string_view name) const;
};

absl::StatusOr<TraceEvent> ParseTraceFormat(std::string_view format);

// The directories at which a complete tracefs is mounted, according to `mountinfo` (in the form of
// /proc/self/mountinfo).
std::vector<std::string> TracefsMounts(std::istream& mountinfo);

// The message of each error is "FOUND; REMEDY".
class Tracefs {
 public:
  // `mountinfo` is the name of a file. With another one, a test replaces tracefs by a folder of its
  // own.
  static absl::StatusOr<Tracefs> Open(const std::string& mountinfo = "/proc/self/mountinfo");

  // For people: the directory, or that it is mounted nowhere.
  const std::string& name() const { return name_; }

  // `event` as in "kvm/kvm_age_hva". The error distinguishes an event that this kernel does not
  // have from one that this user may not read.
  absl::StatusOr<TraceEvent> ReadEvent(const std::string& event) const;

 private:
  Tracefs(UniqueFd events, std::string name) : events_(std::move(events)), name_(std::move(name)) {}

  UniqueFd events_;  // the directory "events"
  std::string name_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_TRACEFS_H_
