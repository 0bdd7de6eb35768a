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
#include "vmm/host/swap_file.h"
#include "vmm/host/zram.h"

namespace underfoot {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::array<std::string_view, 6> kKindNames = {"knob", "mount", "zram",
                                                        "file", "swap",  "zram-to-be"};

struct Record {
  pid_t pid = 0;
  uint64_t started = 0;
  std::vector<HostModification> changes;
};

// When a process started, in clock ticks since boot: its number may be in use again. 0: there is
// none, or what is left of it is the entry that its parent has not asked for yet.
uint64_t StartOf(pid_t pid) {
  std::ifstream file(absl::StrFormat("/proc/%d/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return 0;
  const size_t name_end = line.rfind(')');  // the name may hold blanks
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(line.substr(name_end + 1));
  std::string field;
  constexpr int kStartTime = 20;  // fields after the name; the first of them is the state
  fields >> field;
  if ((field == "Z" || field == "X") && !UNDERFOOT_MUTANT("zombie-lives")) return 0;
  for (int i = 1; i < kStartTime; ++i) fields >> field;
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

// Whether a run other than `self` that lives has changed this too.
bool HeldByAnother(const std::string& directory, HostChangeKind kind, const std::string& path,
                   pid_t self) {
  bool held = false;
  ForEachRecord(directory, [&](const fs::path&, const Record& record) {
    if (record.pid == self || !Lives(record)) return;
    for (const HostModification& change : record.changes) {
      held = held || (change.kind == kind && change.path == path);
    }
  });
  return held;
}

ZramOrigin OriginOf(const HostPlaces& places, const HostModification& to_be, pid_t self) {
  for (const HostChangeKind kind : {HostChangeKind::kZram, HostChangeKind::kZramToBe}) {
    if (HeldByAnother(places.journal, kind, to_be.path, self)) return ZramOrigin::kNone;
  }
  return Zram(places).OriginOf(to_be.path, to_be.before);
}

absl::Status ErrnoUnless(bool fine, const HostModification& change) {
  if (fine) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("undoing %s", Describe(change)));
}

// Done already is done.
absl::Status Undo(const HostPlaces& places, const HostModification& change, pid_t self) {
  switch (change.kind) {
    case HostChangeKind::kKnob:
      if (HeldByAnother(places.journal, change.kind, change.path, self)) return absl::OkStatus();
      return WriteKnob(change.path, change.before);
    case HostChangeKind::kMount:
      return ErrnoUnless(
          umount2(change.path.c_str(), MNT_DETACH) == 0 || errno == EINVAL || errno == ENOENT,
          change);
    case HostChangeKind::kZram:
      return Zram(places).Remove(change.path);
    case HostChangeKind::kZramToBe:
      if (OriginOf(places, change, self) != ZramOrigin::kOurs) return absl::OkStatus();
      return Zram(places).Remove(change.path);
    case HostChangeKind::kFile:
      return ErrnoUnless(unlink(change.path.c_str()) == 0 || errno == ENOENT, change);
    case HostChangeKind::kSwap:
      return ErrnoUnless(swapoff(change.path.c_str()) == 0 || errno == EINVAL || errno == ENOENT,
                         change);
  }
  return absl::OkStatus();
}

// What could not be undone stays in `changes`.
absl::Status UndoAll(const HostPlaces& places, std::vector<HostModification>& changes, pid_t self) {
  absl::Status first;
  std::vector<HostModification> left;
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    if (UNDERFOOT_MUTANT("host-changes-stay")) continue;
    absl::Status undone = Undo(places, *change, self);
    if (!undone.ok()) left.insert(left.begin(), *change);
    first.Update(std::move(undone));
  }
  changes = std::move(left);
  return first;
}

// What comes of undoing `change`, which the process of `record` left.
void Tell(const HostPlaces& places, const Record& record, const HostModification& change,
          RestoredHost& told) {
  const bool to_be = change.kind == HostChangeKind::kZramToBe;
  switch (to_be ? OriginOf(places, change, record.pid) : ZramOrigin::kOurs) {
    case ZramOrigin::kNone:
      return;
    case ZramOrigin::kOurs:
      told.put_back.push_back(to_be ? "device /dev/zram" + change.path : Describe(change));
      return;
    case ZramOrigin::kUnknown:
      told.left_alone.push_back(
          absl::StrFormat("device /dev/zram%s may be of a killed run or of somebody else; if "
                          "nobody needs it: echo %s > %s/hot_remove",
                          change.path, change.path, places.zram_control));
      return;
  }
}

// Swap files that no process holds and no journal names, as after a reboot.
std::vector<std::string> OrphansOf(const HostPlaces& places) {
  std::vector<std::string> orphans = SwapFile::Orphans(places);
  ForEachRecord(places.journal, [&](const fs::path&, const Record& record) {
    for (const HostModification& change : record.changes) {
      if (change.kind == HostChangeKind::kFile) std::erase(orphans, change.path);
    }
  });
  return orphans;
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
    case HostChangeKind::kZramToBe:
      return absl::StrFormat("device /dev/zram%s, if it was made", change.path);
  }
  return "";
}

HostJournal::HostJournal(HostPlaces places)
    : places_(std::move(places)), path_(absl::StrFormat("%s/%d.json", places_.journal, getpid())) {}

absl::Status HostJournal::Write(HostModification change) {
  std::error_code error;
  fs::create_directories(places_.journal, error);
  if (error) {
    return absl::UnavailableError(absl::StrFormat(
        "cannot make %s: %s; changes of the host need root", places_.journal, error.message()));
  }
  changes_.push_back(std::move(change));
  absl::Status saved = Save();
  if (!saved.ok()) changes_.pop_back();
  return saved;
}

absl::Status HostJournal::Amend(HostModification change) {
  const HostModification before = std::exchange(changes_.back(), std::move(change));
  absl::Status saved = Save();
  if (!saved.ok()) changes_.back() = before;
  return saved;
}

absl::Status HostJournal::Withdraw() {
  changes_.pop_back();
  return Save();
}

absl::Status HostJournal::Save() const {
  if (!changes_.empty()) return WriteRecord(path_, {getpid(), StartOf(getpid()), changes_});
  if (unlink(path_.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("unlink of %s", path_));
}

absl::Status HostJournal::PutBack() {
  if (changes_.empty()) return absl::OkStatus();
  absl::Status undone = UndoAll(places_, changes_, getpid());
  undone.Update(Save());
  return undone;
}

std::optional<std::string> HostJournal::OriginalOf(const std::string& knob) const {
  std::optional<std::string> original;
  ForEachRecord(places_.journal, [&](const fs::path&, const Record& record) {
    if (!Lives(record)) return;
    for (const HostModification& change : record.changes) {
      if (change.kind == HostChangeKind::kKnob && change.path == knob) original = change.before;
    }
  });
  return original;
}

absl::StatusOr<RestoredHost> HostJournal::RestoreLeftovers(const HostPlaces& places) {
  RestoredHost restored;
  absl::Status first;
  ForEachRecord(places.journal, [&](const fs::path& path, Record record) {
    if (Lives(record)) return;
    for (const HostModification& change : record.changes) Tell(places, record, change, restored);
    absl::Status undone = UndoAll(places, record.changes, record.pid);
    // What is left stays for whoever may undo it.
    if (record.changes.empty()) {
      std::error_code error;
      fs::remove(path, error);
    } else {
      undone.Update(WriteRecord(path, record));
    }
    first.Update(std::move(undone));
  });
  for (const std::string& orphan : OrphansOf(places)) {
    restored.put_back.push_back("file " + orphan);
    first.Update(SwapFile::Remove(orphan));
  }
  if (!first.ok()) return first;
  return restored;
}

std::vector<std::string> HostJournal::Leftovers(const HostPlaces& places) {
  RestoredHost left;
  ForEachRecord(places.journal, [&](const fs::path&, const Record& record) {
    if (Lives(record)) return;
    for (const HostModification& change : record.changes) Tell(places, record, change, left);
  });
  for (const std::string& orphan : OrphansOf(places)) left.put_back.push_back("file " + orphan);
  left.put_back.insert(left.put_back.end(), left.left_alone.begin(), left.left_alone.end());
  return left.put_back;
}

}  // namespace underfoot
