// Where the kernel describes its tracepoints: tracefs, and the format file of one event.
//
// Thread safety: pure functions of the file system.
// After: Documentation/trace/events.rst in Linux.

#ifndef UNDERFOOT_VMM_MEMORY_TRACEFS_H_
#define UNDERFOOT_VMM_MEMORY_TRACEFS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace underfoot {

// Where it is usually mounted, the first choice first.
std::vector<std::string> TracefsRoots();

// A field of the raw data of an event, at least as far as unsigned numbers go.
struct TraceField {
  uint32_t offset = 0;
  uint32_t size = 0;  // bytes: 4 or 8

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

  // NotFound when this kernel's event has no such field.
  absl::StatusOr<TraceField> Field(std::string_view name) const;
};

absl::StatusOr<TraceEvent> ParseTraceFormat(std::string_view format);

// `event` as in "kvm/kvm_age_hva". The error tells a tracefs that is not mounted from one that may
// not be read and from an event that this kernel has not, each with its remedy.
absl::StatusOr<TraceEvent> ReadTraceEvent(const std::vector<std::string>& roots,
                                          const std::string& event);

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_MEMORY_TRACEFS_H_
