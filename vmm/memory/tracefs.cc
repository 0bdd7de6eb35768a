#include "vmm/memory/tracefs.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace underfoot {
namespace {

// The number behind `key` in a line like "field:unsigned long start;	offset:8;	size:8;
// signed:0;".
std::optional<uint32_t> NumberAfter(std::string_view line, std::string_view key) {
  const size_t at = line.find(key);
  if (at == std::string_view::npos) return std::nullopt;
  uint64_t number = 0;
  size_t i = at + key.size();
  const size_t first = i;
  for (; i < line.size() && line[i] >= '0' && line[i] <= '9' && number < (1U << 20); ++i) {
    number = number * 10 + static_cast<uint64_t>(line[i] - '0');
  }
  if (i == first) return std::nullopt;
  return static_cast<uint32_t>(number);
}

// "unsigned long start" -> "start"
std::string_view LastWord(std::string_view declaration) {
  return declaration.substr(declaration.rfind(' ') + 1);
}

void AddField(std::string_view line, TraceEvent& event) {
  constexpr std::string_view kField = "field:";
  const size_t begin = line.find(kField) + kField.size();
  const size_t end = line.find(';', begin);
  if (end == std::string_view::npos) return;
  const std::optional<uint32_t> offset = NumberAfter(line, "offset:");
  const std::optional<uint32_t> size = NumberAfter(line, "size:");
  if (!offset.has_value() || !size.has_value() || (*size != 4 && *size != 8)) return;
  event.fields.emplace(LastWord(line.substr(begin, end - begin)), TraceField{*offset, *size});
}

absl::Status NotThere(const std::vector<std::string>& roots, const std::string& event) {
  for (const std::string& root : roots) {
    if (access((root + "/events").c_str(), F_OK) == 0) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "%s has no event %s; load the kvm module, in a kernel with CONFIG_TRACEPOINTS", root,
          event));
    }
  }
  return absl::FailedPreconditionError(
      "tracefs is not mounted; mount -t tracefs tracefs /sys/kernel/tracing");
}

}  // namespace

std::vector<std::string> TracefsRoots() {
  return {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};
}

absl::StatusOr<TraceField> TraceEvent::Field(std::string_view name) const {
  const auto found = fields.find(name);
  if (found != fields.end()) return found->second;
  return absl::NotFoundError(absl::StrFormat(
      "tracepoint %d has no field '%s' of 4 or 8 bytes; this kernel's format is not known here", id,
      std::string(name)));
}

absl::StatusOr<TraceEvent> ParseTraceFormat(std::string_view format) {
  TraceEvent event;
  std::optional<uint32_t> id;
  while (!format.empty()) {
    const std::string_view line = format.substr(0, format.find('\n'));
    format.remove_prefix(std::min(format.size(), line.size() + 1));
    if (line.starts_with("ID:")) id = NumberAfter(line, "ID: ");
    if (line.find("field:") != std::string_view::npos) AddField(line, event);
  }
  if (!id.has_value()) return absl::InvalidArgumentError("a tracepoint's format without an ID");
  event.id = *id;
  return event;
}

absl::StatusOr<TraceEvent> ReadTraceEvent(const std::vector<std::string>& roots,
                                          const std::string& event) {
  for (const std::string& root : roots) {
    const std::string path = root + "/events/" + event + "/format";
    if (faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) != 0) {
      if (errno != EACCES && errno != EPERM) continue;
      return absl::PermissionDeniedError(absl::StrFormat(
          "%s: %s; run as root, or let this user read tracefs", path, std::strerror(errno)));
    }
    std::ifstream file(path);
    std::ostringstream text;
    text << file.rdbuf();
    return ParseTraceFormat(text.str());
  }
  return NotThere(roots, event);
}

}  // namespace underfoot
