#include "vmm/host/tracefs.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"

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

// A field of mountinfo, where the kernel writes blanks and backslashes as "\\040" and the like.
std::string Unescaped(std::string_view field) {
  std::string text;
  while (!field.empty()) {
    unsigned code = 0;
    const bool escape = field.size() >= 4 && field[0] == '\\' &&
                        std::from_chars(&field[1], &field[4], code, 8).ptr == &field[4];
    text += escape ? static_cast<char>(code) : field[0];
    field.remove_prefix(escape ? 4 : 1);
  }
  return text;
}

UniqueFd OpenDirectory(int at, const char* path) {
  return UniqueFd(openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

// Opens the directory "events" of a mount of tracefs that is attached to no directory. Invalid,
// with errno set: the kernel refused it.
UniqueFd EventsOfDetachedMount() {
  const UniqueFd context(static_cast<int>(syscall(SYS_fsopen, "tracefs", FSOPEN_CLOEXEC)));
  if (!context.valid()) return UniqueFd();
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return UniqueFd();
  }
  const UniqueFd mount(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (!mount.valid()) return UniqueFd();
  // The kernel dissolves the mount when its descriptor is closed. The directory stays usable.
  return OpenDirectory(mount.get(), "events");
}

absl::Status NoTracefs(int error, const std::string& denied) {
  if (!denied.empty()) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "%s: %s; run as root, or let this user read tracefs", denied, std::strerror(EACCES)));
  }
  const std::string found =
      absl::StrFormat("no tracefs is mounted, and fsopen of one: %s", ErrnoText(error));
  if (IsLackOfDescriptors(error)) return absl::ResourceExhaustedError(found);
  if (error == EPERM || error == EACCES) {
    return absl::PermissionDeniedError(found + "; run as root or with CAP_SYS_ADMIN");
  }
  if (error == ENODEV || error == ENOENT) {
    return absl::FailedPreconditionError(found + "; use a kernel with CONFIG_TRACING");
  }
  return absl::FailedPreconditionError(found + "; mount -t tracefs tracefs /sys/kernel/tracing");
}

}  // namespace

std::vector<std::string> TracefsMounts(std::istream& mountinfo) {
  std::vector<std::string> mounts;
  for (std::string line; std::getline(mountinfo, line);) {
    // 36 35 0:12 ROOT DIRECTORY rw,noatime [shared:1 ...] - TYPE source options
    std::istringstream words(line);
    const std::vector<std::string> fields(std::istream_iterator<std::string>(words), {});
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (dash - fields.begin() < 6 || fields.end() - dash < 2 || dash[1] != "tracefs") continue;
    // A bind mount of a folder of tracefs lacks the rest of it.
    if (fields[3] == "/") mounts.push_back(Unescaped(fields[4]));
  }
  return mounts;
}

absl::StatusOr<Tracefs> Tracefs::Open(const std::string& mountinfo) {
  std::ifstream file(mountinfo);
  std::string denied;
  for (const std::string& root : TracefsMounts(file)) {
    const std::string path = root + "/events";
    UniqueFd events = OpenDirectory(AT_FDCWD, path.c_str());
    if (events.valid()) return Tracefs(std::move(events), root);
    if (errno == EACCES || errno == EPERM) denied = path;
    if (IsLackOfDescriptors(errno)) return ErrnoStatus(errno, path);
  }
  UniqueFd events = EventsOfDetachedMount();
  if (events.valid())
    return Tracefs(std::move(events),
                   "tracefs (mounted nowhere; read through a mount of this process)");
  return NoTracefs(errno, denied);
}

absl::StatusOr<TraceEvent> Tracefs::ReadEvent(const std::string& event) const {
  const UniqueFd fd(openat(events_.get(), (event + "/format").c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid() && (errno == EACCES || errno == EPERM)) {
    return absl::PermissionDeniedError(
        absl::StrFormat("%s/events/%s/format: %s; run as root, or let this user read tracefs",
                        name_, event, std::strerror(errno)));
  }
  if (!fd.valid() && IsLackOfDescriptors(errno)) {
    return ErrnoStatus(errno, absl::StrFormat("%s/events/%s/format", name_, event));
  }
  if (!fd.valid()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s has no event %s; load the kvm module, in a kernel with "
                        "CONFIG_TRACEPOINTS",
                        name_, event));
  }
  std::string format;
  std::array<char, 4096> chunk;
  for (ssize_t bytes = 0; (bytes = read(fd.get(), chunk.data(), chunk.size())) > 0;) {
    format.append(chunk.data(), static_cast<size_t>(bytes));
  }
  return ParseTraceFormat(format);
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

}  // namespace underfoot
