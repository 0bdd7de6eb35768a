#include "vmm/host/host_journal.h"

#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "mmu/mutant.h"
#include "vmm/host/knob.h"

namespace underfoot {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::array<std::string_view, 5> kKindNames = {"knob", "mount", "zram", "file", "swap"};

struct Record {
  pid_t pid = 0;
  uint64_t started = 0;
  std::vector<HostModification> changes;
};

// When a process started, in clock ticks since boot: its number may be in use again. 0: there is
// none.
uint64_t StartOf(pid_t pid) {
  std::ifstream file(absl::StrFormat("/proc/%d/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return 0;
  const size_t name_end = line.rfind(')');  // the name may hold blanks
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  constexpr int kStartTime = 20;  // fields after the name
  for (int i = 0; i < kStartTime; ++i) fields >> field;
  uint64_t started = 0;
  return fields.fail() || !absl::SimpleAtoi(field, &started) ? 0 : started;
}

std::optional<HostChangeKind> FindKind(std::string_view name) {
  for (size_t i = 0; i < kKindNames.size(); ++i) {
    if (kKindNames[i] == name) return static_cast<HostChangeKind>(i);
  }
  return std::nullopt;
}

// nullopt: half written, or not ours.
std::optional<Record> ReadRecord(const fs::path& path) {
  std::ifstream file(path);
  const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  try {
    Record record;
    record.pid = json.at("pid").get<pid_t>();
    record.started = json.at("started").get<uint64_t>();
    for (const Json& change : json.at("changes")) {
      const std::optional<HostChangeKind> kind = FindKind(change.at("kind").get<std::string>());
      if (!kind.has_value()) return std::nullopt;
      record.changes.push_back(
          {*kind, change.at("path").get<std::string>(), change.at("before").get<std::string>()});
    }
    return record;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

template <class Visitor>
void ForEachRecord(const std::string& directory, const Visitor& visit) {
  std::error_code error;
  fs::directory_iterator entry(directory, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    if (entry->path().extension() != ".json") continue;
    if (const std::optional<Record> record = ReadRecord(entry->path())) {
      visit(entry->path(), *record);
    }
  }
}

bool Lives(const Record& record) {
  return record.started != 0 && StartOf(record.pid) == record.started;
}

// Whether a run other than `self` that lives holds this knob.
bool HeldByAnother(const std::string& directory, const std::string& knob, pid_t self) {
  bool held = false;
  ForEachRecord(directory, [&](const fs::path&, const Record& record) {
    if (record.pid == self || !Lives(record)) return;
    for (const HostModification& change : record.changes) {
      held = held || (change.kind == HostChangeKind::kKnob && change.path == knob);
    }
  });
  return held;
}

absl::Status ErrnoUnless(bool fine, const HostModification& change) {
  if (fine) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("undoing %s", Describe(change)));
}

// Done already is done.
absl::Status Undo(const std::string& directory, const HostModification& change, pid_t self) {
  switch (change.kind) {
    case HostChangeKind::kKnob:
      if (HeldByAnother(directory, change.path, self)) return absl::OkStatus();
      return WriteKnob(change.path, change.before);
    case HostChangeKind::kMount:
      return ErrnoUnless(
          umount2(change.path.c_str(), MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT,
          change);
    case HostChangeKind::kZram:
      if (!fs::exists("/sys/block/zram" + change.path)) return absl::OkStatus();
      return WriteKnob("/sys/class/zram-control/hot_remove", change.path);
    case HostChangeKind::kFile:
      return ErrnoUnless(unlink(change.path.c_str()) == 0 || errno == ENOENT, change);
    case HostChangeKind::kSwap:
      return ErrnoUnless(swapoff(change.path.c_str()) == 0 || errno == EINVAL || errno == ENOENT,
                         change);
  }
  return absl::OkStatus();
}

// What could not be undone stays in `changes`.
absl::Status UndoAll(const std::string& directory, std::vector<HostModification>& changes,
                     pid_t self) {
  absl::Status first;
  std::vector<HostModification> left;
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    if (UNDERFOOT_MUTANT("host-changes-stay")) continue;
    absl::Status undone = Undo(directory, *change, self);
    if (!undone.ok()) left.insert(left.begin(), *change);
    first.Update(std::move(undone));
  }
  changes = std::move(left);
  return first;
}

absl::Status WriteRecord(const std::string& path, const Record& record) {
  Json changes = Json::array();
  for (const HostModification& change : record.changes) {
    changes.push_back({{"kind", kKindNames[static_cast<size_t>(change.kind)]},
                       {"path", change.path},
                       {"before", change.before}});
  }
  const Json json = {{"pid", record.pid}, {"started", record.started}, {"changes", changes}};
  // Renamed into place: a crash leaves the old journal or the new one.
  const std::string next = path + ".next";
  {
    std::ofstream file(next, std::ios::trunc);
    file << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    if (!file.flush()) {
      return absl::UnavailableError(absl::StrFormat(
          "cannot write %s, which keeps what must be put back; nothing was changed", next));
    }
  }
  if (rename(next.c_str(), path.c_str()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("rename of %s", next));
}

}  // namespace

std::string Describe(const HostModification& change) {
  switch (change.kind) {
    case HostChangeKind::kKnob:
      return absl::StrFormat("%s was %s", change.path, change.before);
    case HostChangeKind::kMount:
      return "mount at " + change.path;
    case HostChangeKind::kZram:
      return "device /dev/zram" + change.path;
    case HostChangeKind::kFile:
      return "file " + change.path;
    case HostChangeKind::kSwap:
      return "swap on " + change.path;
  }
  return "";
}

HostJournal::HostJournal(std::string directory)
    : directory_(std::move(directory)),
      path_(absl::StrFormat("%s/%d.json", directory_, getpid())) {}

absl::Status HostJournal::Write(HostModification change) {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error) {
    return absl::UnavailableError(absl::StrFormat(
        "cannot make %s: %s; changes of the host need root", directory_, error.message()));
  }
  changes_.push_back(std::move(change));
  absl::Status saved = Save();
  if (!saved.ok()) changes_.pop_back();
  return saved;
}

absl::Status HostJournal::Save() const {
  if (!changes_.empty()) return WriteRecord(path_, {getpid(), StartOf(getpid()), changes_});
  if (unlink(path_.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("unlink of %s", path_));
}

absl::Status HostJournal::PutBack() {
  if (changes_.empty()) return absl::OkStatus();
  absl::Status undone = UndoAll(directory_, changes_, getpid());
  undone.Update(Save());
  return undone;
}

std::optional<std::string> HostJournal::OriginalOf(const std::string& knob) const {
  std::optional<std::string> original;
  ForEachRecord(directory_, [&](const fs::path&, const Record& record) {
    if (!Lives(record)) return;
    for (const HostModification& change : record.changes) {
      if (change.kind == HostChangeKind::kKnob && change.path == knob) original = change.before;
    }
  });
  return original;
}

absl::StatusOr<std::vector<std::string>> HostJournal::RestoreLeftovers(
    const std::string& directory) {
  std::vector<std::string> restored;
  absl::Status first;
  ForEachRecord(directory, [&](const fs::path& path, Record record) {
    if (Lives(record)) return;
    for (const HostModification& change : record.changes) restored.push_back(Describe(change));
    absl::Status undone = UndoAll(directory, record.changes, record.pid);
    // What is left stays for whoever may undo it.
    if (record.changes.empty()) {
      std::error_code error;
      fs::remove(path, error);
    } else {
      undone.Update(WriteRecord(path, record));
    }
    first.Update(std::move(undone));
  });
  if (!first.ok()) return first;
  return restored;
}

std::vector<std::string> HostJournal::Leftovers(const std::string& directory) {
  std::vector<std::string> lines;
  ForEachRecord(directory, [&](const fs::path&, const Record& record) {
    if (Lives(record)) return;
    for (const HostModification& change : record.changes) lines.push_back(Describe(change));
  });
  return lines;
}

}  // namespace underfoot
