#include "vmm/churn/script.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <initializer_list>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "absl/strings/str_format.h"
#include "mmu/base/sync_point.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/file_lock.h"

namespace underfoot {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::array<std::string_view, 2> kOutcomes = {"done", "declined"};

absl::Status BadLine(const std::string& path, size_t line, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "--replay %s, line %u: %s; give a file that --record has written", path, line, why));
}

// Far longer than any run, and far below the largest duration.
constexpr int64_t kLongestRunUs = int64_t{366} * 24 * 3600 * 1'000'000;

// Short enough not to repeat a whole line.
std::string Shown(const Json& json, const char* name) {
  constexpr size_t kLimit = 40;
  const std::string value =
      json.at(name).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return absl::StrFormat("%s is %s%s", name, value.substr(0, kLimit),
                         value.size() > kLimit ? "..." : "");
}

// Rejects a number that is negative, fractional or too large for its type; nlohmann would convert
// it silently.
template <class Number>
std::optional<Number> NumberAt(const Json& json, const char* name) {
  const Json& value = json.at(name);
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<Number>::max())) return std::nullopt;
  return static_cast<Number>(number);
}

// "": not a text.
std::string TextAt(const Json& json, const char* name) {
  const Json& value = json.at(name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

// Why a line is none of a record; "": it is an object with these members.
std::string WhatIsMissing(const Json& json, std::initializer_list<const char*> members) {
  if (!json.is_object()) return "no record of churn";
  for (const char* member : members) {
    if (!json.contains(member)) {
      return absl::StrFormat("no record of churn: it has no member '%s'", member);
    }
  }
  return "";
}

// What an operation acts on: whole pages of the machine's memory. One that found no place has no pages.
std::string CheckPages(const Json& json, uint64_t memory_bytes, const ChurnResult& result) {
  if (result.gpa.value % kPageSize != 0) return Shown(json, "gpa") + ", and no page begins there";
  if (result.bytes % kPageSize != 0) return Shown(json, "bytes") + ", which are no whole pages";
  if (result.bytes == 0 && result.outcome == ChurnOutcome::kDone) {
    return Shown(json, "bytes") + ", and only an operation that was declined has no pages";
  }
  if (result.gpa.value >= memory_bytes || result.bytes > memory_bytes - result.gpa.value) {
    return absl::StrFormat("gpa 0x%x with %u bytes lies outside of the memory of %u bytes",
                           result.gpa.value, result.bytes, memory_bytes);
  }
  return "";
}

// Returns what is wrong with the line, or "".
std::string ReadOperation(const Json& json, uint64_t memory_bytes, ScriptedOperation& operation) {
  std::string missing =
      WhatIsMissing(json, {"at_us", "lane", "kind", "random", "gpa", "bytes", "outcome"});
  if (!missing.empty()) return missing;
  const std::optional<ChurnKind> kind = FindChurnKind(TextAt(json, "kind"));
  if (!kind.has_value()) return Shown(json, "kind") + ", which is no kind of churn";
  const auto lane = NumberAt<uint64_t>(json, "lane");
  if (!lane.has_value() || *lane >= kChurnLanes) {
    return Shown(json, "lane") + absl::StrFormat(", and must be from 0 to %u", kChurnLanes - 1);
  }
  if (static_cast<ChurnLane>(*lane) != LaneOf(*kind)) {
    return absl::StrFormat("%s is in lane %u, another kind's lane; its own is %u",
                           ChurnKindName(*kind), *lane, static_cast<unsigned>(LaneOf(*kind)));
  }
  const std::string outcome = TextAt(json, "outcome");
  if (outcome != kOutcomes[0] && outcome != kOutcomes[1]) {
    return Shown(json, "outcome") + ", and must be done or declined";
  }
  const auto at_us = NumberAt<int64_t>(json, "at_us");
  if (!at_us.has_value() || *at_us > kLongestRunUs) {
    return Shown(json, "at_us") + ", which is not a time from 0 to a year";
  }
  for (const char* name : {"random", "gpa", "bytes"}) {
    if (!NumberAt<uint64_t>(json, name).has_value()) {
      return Shown(json, name) + ", and must be a whole number from 0 to 2^64-1";
    }
  }
  operation.lane = static_cast<ChurnLane>(*lane);
  operation.step = {.kind = *kind,
                    .due = absl::Microseconds(*at_us),
                    .random = *NumberAt<uint64_t>(json, "random")};
  operation.result = {
      .gpa = Gpa{*NumberAt<uint64_t>(json, "gpa")},
      .bytes = *NumberAt<uint64_t>(json, "bytes"),
      .outcome = outcome == kOutcomes[0] ? ChurnOutcome::kDone : ChurnOutcome::kDeclined};
  return CheckPages(json, memory_bytes, operation.result);
}

// Returns what is wrong with the line, or "".
std::string ReadMachine(const Json& json, ScriptMachine& machine) {
  std::string missing = WhatIsMissing(json, {"underfoot_churn", "memory_bytes", "backing"});
  if (!missing.empty()) return missing;
  if (NumberAt<int>(json, "underfoot_churn") != kVersion) {
    return Shown(json, "underfoot_churn") +
           absl::StrFormat(", so it is of another version; this one is %d", kVersion);
  }
  const auto memory_bytes = NumberAt<uint64_t>(json, "memory_bytes");
  if (!memory_bytes.has_value() || *memory_bytes == 0 || *memory_bytes % kPageSize != 0) {
    return Shown(json, "memory_bytes") + ", which is not a size of memory in whole pages";
  }
  const std::string backing = TextAt(json, "backing");
  if (backing != BackingName(Backing::kAnon) && backing != BackingName(Backing::kMemfd)) {
    return Shown(json, "backing") + ", which is neither anon nor memfd";
  }
  machine.backing = backing == BackingName(Backing::kMemfd) ? Backing::kMemfd : Backing::kAnon;
  if (json.contains("seed")) {
    machine.seed = NumberAt<uint64_t>(json, "seed");
    if (!machine.seed.has_value()) return Shown(json, "seed") + ", which is no seed";
  }
  if (json.contains("vcpus")) {
    machine.vcpus = NumberAt<uint32_t>(json, "vcpus");
    if (!machine.vcpus.has_value()) return Shown(json, "vcpus") + ", which is no number of vCPUs";
  }
  if (json.contains("guest")) {
    machine.guest = TextAt(json, "guest");
    if (machine.guest.empty()) return Shown(json, "guest") + ", which names no guest";
  }
  if (json.contains("huge_pages")) {
    const auto huge = FindHugePages(TextAt(json, "huge_pages"));
    if (!huge.has_value())
      return Shown(json, "huge_pages") + ", and is none of off, thp, 2M and 1G";
    machine.huge_pages = *huge;
  }
  machine.memory_bytes = *memory_bytes;
  return "";
}

// The option that a file was given with, and what the program does with it.
struct Use {
  std::string_view option;
  std::string_view done;
};
constexpr Use kReplay{"--replay", "read"};
constexpr Use kRecord{"--record", "written"};

absl::Status FileError(const std::string& path, Use use) {
  return ErrnoStatus(errno, absl::StrFormat("%s %s cannot be %s", use.option, path, use.done));
}

// Opens without waiting for the other end of a FIFO. `takes_device`: a character device is accepted
// too.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, Use use, bool takes_device) {
  UniqueFd file(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666));
  struct stat info {};
  const bool opened = file.valid() && fstat(file.get(), &info) == 0;
  // ENXIO: a FIFO without a reader, or a socket.
  if (!opened && errno != ENXIO) return FileError(path, use);
  if (!opened || (!S_ISREG(info.st_mode) && !(takes_device && S_ISCHR(info.st_mode)))) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s %s cannot be %s: it is not a regular file; give one", use.option, path, use.done));
  }
  return file;
}

// Whether `path` names the open file. `flags`: as of fstatat(2).
bool IsFileAt(const std::string& path, int file, int flags) {
  struct stat ours {};
  struct stat there {};
  return fstat(file, &ours) == 0 && fstatat(AT_FDCWD, path.c_str(), &there, flags) == 0 &&
         ours.st_dev == there.st_dev && ours.st_ino == there.st_ino;
}

absl::StatusOr<std::string> ContentOf(const std::string& path) {
  absl::StatusOr<UniqueFd> file = OpenFile(path, O_RDONLY, kReplay, /*takes_device=*/false);
  if (!file.ok()) return std::move(file).status();
  std::string content;
  std::array<char, 65536> piece{};
  for (;;) {
    const ssize_t bytes = read(file->get(), piece.data(), piece.size());
    if (bytes == 0) return content;
    if (bytes > 0) content.append(piece.data(), static_cast<size_t>(bytes));
    if (bytes < 0 && errno != EINTR) return FileError(path, kReplay);
  }
}

}  // namespace

std::string ScriptedOperation::Text() const {
  return absl::StrFormat("%s of gpa [0x%x, 0x%x): %s", ChurnKindName(step.kind), result.gpa.value,
                         result.gpa.value + result.bytes,
                         kOutcomes[static_cast<size_t>(result.outcome)]);
}

std::string ScriptMachine::OptionsMissingFrom(const ScriptMachine& other) const {
  std::string options;
  if (vcpus.has_value() && vcpus != other.vcpus) {
    absl::StrAppendFormat(&options, " --vcpus %u", *vcpus);
  }
  if (!guest.empty() && guest != other.guest) absl::StrAppendFormat(&options, " --guest %s", guest);
  if (seed.has_value() && seed != other.seed) absl::StrAppendFormat(&options, " --seed %u", *seed);
  return options.empty() ? options : options.substr(1);
}

absl::StatusOr<Script> Script::Read(const std::string& path) {
  const absl::StatusOr<std::string> content = ContentOf(path);
  if (!content.ok()) return content.status();
  Script script;
  size_t begin = 0;
  for (size_t number = 1; begin < content->size(); ++number) {
    const size_t end = content->find('\n', begin);
    if (end == std::string::npos) break;
    const Json json = Json::parse(content->substr(begin, end - begin), nullptr,
                                  /*allow_exceptions=*/false);
    begin = end == std::string::npos ? content->size() : end + 1;
    if (number == 1) {
      const std::string wrong = ReadMachine(json, script.machine);
      if (!wrong.empty()) return BadLine(path, number, wrong);
      continue;
    }
    ScriptedOperation operation;
    const std::string wrong = ReadOperation(json, script.machine.memory_bytes, operation);
    if (!wrong.empty()) return BadLine(path, number, wrong);
    operation.line = number;
    script.operations.push_back(operation);
  }
  if (script.machine.memory_bytes == 0) return BadLine(path, 1, "no line is whole");
  return script;
}

absl::Status Script::CheckMemoryOf(const ScriptMachine& other, const std::string& path) const {
  if (machine.memory_bytes == other.memory_bytes && machine.backing == other.backing &&
      machine.huge_pages == other.huge_pages) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s was recorded with --memory %dK --backing %s --huge-pages %s; give the same", path,
      machine.memory_bytes >> 10, BackingName(machine.backing), HugePagesName(machine.huge_pages)));
}

absl::Status CheckRecordIsNoInput(const RunOptions& options) {
  struct stat record {};
  if (options.record_path.empty() || stat(options.record_path.c_str(), &record) != 0) {
    return absl::OkStatus();
  }
  std::vector<std::pair<std::string_view, std::string>> inputs = {
      {"--replay", options.replay_path},
      {options.RunsLinux() ? "--kernel" : "--guest",
       options.HasBuiltInGuest() ? std::string() : options.guest}};
  if (options.RunsLinux()) inputs.emplace_back("--initrd", options.linux_guest->initrd);
  for (const DiskFile& disk : options.disks) inputs.emplace_back("--disk", disk.path);
  for (const auto& [option, path] : inputs) {
    struct stat input {};
    if (path.empty() || stat(path.c_str(), &input) != 0 || input.st_dev != record.st_dev ||
        input.st_ino != record.st_ino || !S_ISREG(input.st_mode)) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("--record: '%s' is the file of %s '%s' too, and would be overwritten; give "
                        "another file",
                        options.record_path, option, path));
  }
  return absl::OkStatus();
}

absl::StatusOr<ScriptWriter> ScriptWriter::Open(const std::string& path,
                                                const ScriptMachine& machine) {
  constexpr int kFlags = O_WRONLY | O_CREAT;
  absl::StatusOr<UniqueFd> file = OpenFile(path, kFlags | O_EXCL, kRecord, /*takes_device=*/true);
  const bool created = file.ok();
  // O_EXCL does not follow a link, even where it leads to no file yet.
  if (absl::IsAlreadyExists(file.status())) {
    file = OpenFile(path, kFlags, kRecord, /*takes_device=*/true);
  }
  if (!file.ok()) return std::move(file).status();
  UNDERFOOT_SYNC_POINT("record-opened");
  const auto refused = [&path](std::string_view why, std::string_view remedy) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s %s cannot be written: it %s; %s", kRecord.option, path, why, remedy));
  };
  struct stat info {};
  if (fstat(file->get(), &info) == 0 && S_ISREG(info.st_mode)) {
    // The machine that has the lock may have it of a file that this one has created. So only a
    // writer, which has the lock, removes a file.
    if (const std::string_view why_not = LockFile(file->get(), /*exclusive=*/true);
        !why_not.empty()) {
      return refused(why_not, "give another file");
    }
    // Before it was locked, a machine that was refused, or that only checked, may have removed it.
    if (!IsFileAt(path, file->get(), 0)) {
      return refused("was removed at this moment, by another machine", "start again");
    }
  }
  ScriptWriter writer(path, *std::move(file), created);
  Json head = {{"underfoot_churn", kVersion},
               {"memory_bytes", machine.memory_bytes},
               {"backing", BackingName(machine.backing)},
               {"huge_pages", HugePagesName(machine.huge_pages)}};
  if (machine.seed.has_value()) head["seed"] = *machine.seed;
  if (machine.vcpus.has_value()) head["vcpus"] = *machine.vcpus;
  if (!machine.guest.empty()) head["guest"] = machine.guest;
  writer.head_ = head.dump() + "\n";
  return writer;
}

ScriptWriter::~ScriptWriter() {
  if (!file_.valid() || !created_ || begun_) return;
  if (IsFileAt(path_, file_.get(), AT_SYMLINK_NOFOLLOW)) static_cast<void>(unlink(path_.c_str()));
}

// The first line comes before the rest is cut off: if the disk is full, or the file may not grow, the
// file still has what it had.
absl::Status ScriptWriter::Begin() {
  Write(head_);
  struct stat info {};
  if (status_.ok() && fstat(file_.get(), &info) == 0 && S_ISREG(info.st_mode) &&
      ftruncate(file_.get(), static_cast<off_t>(head_.size())) != 0) {
    status_ = FileError(path_, kRecord);
  }
  if (!status_.ok()) return status_;
  begun_ = true;
  // An error from here on ends the record, as one of a later line does.
  Write(waiting_);
  waiting_ = std::string();
  return absl::OkStatus();
}

void ScriptWriter::Add(const ScriptedOperation& operation) {
  // Each line is one write, which takes a microsecond: the run that is killed is the one that must
  // be repeated.
  const std::string line =
      Json::object({{"at_us", absl::ToInt64Microseconds(operation.step.due)},
                    {"lane", static_cast<int>(operation.lane)},
                    {"kind", ChurnKindName(operation.step.kind)},
                    {"random", operation.step.random},
                    {"gpa", operation.result.gpa.value},
                    {"bytes", operation.result.bytes},
                    {"outcome", kOutcomes[static_cast<size_t>(operation.result.outcome)]}})
          .dump() +
      "\n";
  if (begun_) {
    Write(line);
  } else {
    waiting_ += line;
  }
}

void ScriptWriter::Write(std::string_view rest) {
  while (status_.ok() && !rest.empty()) {
    const ssize_t bytes = write(file_.get(), rest.data(), rest.size());
    if (bytes > 0) rest.remove_prefix(static_cast<size_t>(bytes));
    if (bytes < 0 && errno != EINTR) status_ = FileError(path_, {"--record", "written to its end"});
  }
}

}  // namespace underfoot
