#include "vmm/host/host_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/base/errno_status.h"
#include "vmm/host/knob.h"
#include "vmm/host/swap_file.h"
#include "vmm/host/zram.h"

namespace underfoot {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::array<std::string_view, 5> kKindNames = {"knob", "zram", "file", "swap",
                                                        "zram-to-be"};

using Changes = std::vector<HostModification>;

std::string PathOf(const HostPlaces& places) { return places.journal + "/changes.json"; }

std::optional<HostChangeKind> FindKind(std::string_view name) {
  for (size_t i = 0; i < kKindNames.size(); ++i) {
    if (kKindNames[i] == name) return static_cast<HostChangeKind>(i);
  }
  return std::nullopt;
}

absl::Status Unreadable(const std::string& path, std::string_view why) {
  return absl::DataLossError(absl::StrFormat(
      "cannot read %s, the record of what a run has changed about this host: %s; run `underfoot "
      "doctor` as root; if the file is damaged, undo the changes in it by hand and remove it",
      path, why));
}

// If there is no file, there are no changes.
absl::StatusOr<Changes> ReadChanges(const HostPlaces& places) {
  const std::string path = PathOf(places);
  std::ifstream file(path);
  if (!file && errno == ENOENT) return Changes();
  if (!file) return Unreadable(path, ErrnoText(errno));
  const Json json = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  try {
    Changes changes;
    for (const Json& change : json.at("changes")) {
      const auto name = change.at("kind").get<std::string>();
      const std::optional<HostChangeKind> kind = FindKind(name);
      if (!kind.has_value()) return Unreadable(path, "unknown kind of change '" + name + "'");
      changes.push_back(
          {*kind, change.at("path").get<std::string>(), change.at("before").get<std::string>()});
    }
    return changes;
  } catch (const Json::exception& error) {
    return Unreadable(path, error.what());
  }
}

// Finds the process that holds a lock on the folder, from a line of /proc/locks:
//   1: FLOCK  ADVISORY  WRITE 4711 00:1a:1234 0 EOF
// nullopt: the process is in another PID namespace, or has released the lock.
std::optional<int> HolderOf(int folder) {
  struct stat file {};
  if (fstat(folder, &file) != 0) return std::nullopt;
  const std::string wanted =
      absl::StrFormat("%02x:%02x:%d", major(file.st_dev), minor(file.st_dev), file.st_ino);
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    std::istringstream fields(line);
    std::string number, kind, strictness, mode, inode;
    int pid = 0;
    if (fields >> number >> kind >> strictness >> mode >> pid >> inode && kind == "FLOCK" &&
        inode == wanted && pid > 0) {
      return pid;
    }
  }
  return std::nullopt;
}

// AlreadyExists: another process holds the lock. NotFound: there is no folder.
absl::StatusOr<UniqueFd> LockFolder(const HostPlaces& places, int mode) {
  const std::string& path = places.journal;
  UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) return ErrnoStatus(errno, absl::StrFormat("open of %s", path));
  // Another process that reads the journal holds the lock for a moment.
  constexpr int kTries = 20;
  for (int i = 0; i < kTries; ++i) {
    if (flock(folder.get(), mode | LOCK_NB) == 0) return folder;
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return absl::ErrnoToStatus(errno, absl::StrFormat("flock of %s", path));
    }
    absl::SleepFor(absl::Milliseconds(5));
  }
  const std::optional<int> holder = HolderOf(folder.get());
  return absl::AlreadyExistsError(absl::StrFormat(
      "--allow-host-changes: another run (%s) is changing this host and holds %s; wait for it, "
      "or run without the option",
      holder.has_value() ? absl::StrFormat("pid %d", *holder) : "in another PID namespace", path));
}

absl::Status ErrnoUnless(bool fine, const HostModification& change) {
  if (fine) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("undoing %s", Describe(change)));
}

// Undoing a change that is already undone succeeds.
absl::Status Undo(const HostPlaces& places, const HostModification& change) {
  switch (change.kind) {
    case HostChangeKind::kKnob:
      return WriteKnob(change.path, change.before);
    case HostChangeKind::kZram:
      return Zram(places).Remove(change.path);
    case HostChangeKind::kZramToBe:
      if (Zram(places).OriginOf(change.path, change.before) != ZramOrigin::kOurs) {
        return absl::OkStatus();
      }
      return Zram(places).Remove(change.path);
    case HostChangeKind::kFile:
      return ErrnoUnless(unlink(change.path.c_str()) == 0 || errno == ENOENT, change);
    case HostChangeKind::kSwap:
      return ErrnoUnless(swapoff(change.path.c_str()) == 0 || errno == EINVAL || errno == ENOENT,
                         change);
  }
  return absl::OkStatus();
}

// The changes that could not be undone stay in `changes`.
absl::Status UndoAll(const HostPlaces& places, Changes& changes) {
  absl::Status first;
  Changes left;
  for (auto change = changes.rbegin(); change != changes.rend(); ++change) {
    absl::Status undone = Undo(places, *change);
    if (!undone.ok()) left.insert(left.begin(), *change);
    first.Update(std::move(undone));
  }
  changes = std::move(left);
  return first;
}

// Describes the result of undoing `change`, which an earlier run left behind.
void Report(const HostPlaces& places, const HostModification& change, RestoredHost& report) {
  const bool to_be = change.kind == HostChangeKind::kZramToBe;
  switch (to_be ? Zram(places).OriginOf(change.path, change.before) : ZramOrigin::kOurs) {
    case ZramOrigin::kNone:
      return;
    case ZramOrigin::kOurs:
      report.put_back.push_back(to_be ? "device /dev/zram" + change.path : Describe(change));
      return;
    case ZramOrigin::kUnknown:
      report.left_alone.push_back(
          absl::StrFormat("device /dev/zram%s may be of a killed run or of another program; if no "
                          "program needs it: echo %s > %s/hot_remove",
                          change.path, change.path, places.zram_control));
      return;
  }
}

// Swap files that no process holds and the journal does not name, as after a reboot.
std::vector<std::string> OrphansOf(const HostPlaces& places, const Changes& changes) {
  std::vector<std::string> orphans = SwapFile::Orphans(places);
  for (const HostModification& change : changes) {
    if (change.kind == HostChangeKind::kFile) std::erase(orphans, change.path);
  }
  return orphans;
}

absl::Status WriteChanges(const std::string& path, const Changes& changes) {
  Json list = Json::array();
  for (const HostModification& change : changes) {
    list.push_back({{"kind", kKindNames[static_cast<size_t>(change.kind)]},
                    {"path", change.path},
                    {"before", change.before}});
  }
  const Json json = {{"changes", list}};
  // The new file is renamed into place: after a crash there is either the old journal or the new
  // one.
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

absl::StatusOr<HostJournal> HostJournal::Open(const HostPlaces& places) {
  std::error_code error;
  fs::create_directories(places.journal, error);
  if (!error && faccessat(AT_FDCWD, places.journal.c_str(), W_OK | X_OK, AT_EACCESS) != 0) {
    error = {errno, std::generic_category()};
  }
  if (error) {
    const bool no_right = error.value() == EACCES || error.value() == EPERM;
    return absl::Status(
        absl::ErrnoToStatusCode(error.value()),
        absl::StrFormat("--allow-host-changes: the journal of what must be put back cannot be kept "
                        "in %s: %s; %s",
                        places.journal, ErrnoText(error.value()),
                        no_right ? "run as root, or without the option"
                                 : "make that folder writable, or run without the option"));
  }
  absl::StatusOr<UniqueFd> lock = LockFolder(places, LOCK_EX);
  if (!lock.ok()) return std::move(lock).status();
  absl::StatusOr<Changes> changes = ReadChanges(places);
  if (!changes.ok()) return std::move(changes).status();
  return HostJournal(places, *std::move(lock), *std::move(changes));
}

HostJournal::~HostJournal() {
  if (lock_.valid()) static_cast<void>(flock(lock_.get(), LOCK_UN));
}

absl::Status HostJournal::Write(HostModification change) {
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

absl::Status HostJournal::UndoLast() {
  if (absl::Status undone = Undo(places_, changes_.back()); !undone.ok()) return undone;
  return Withdraw();
}

absl::Status HostJournal::Save() const {
  const std::string path = PathOf(places_);
  if (!changes_.empty()) return WriteChanges(path, changes_);
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("unlink of %s", path));
}

absl::Status HostJournal::PutBack() {
  if (changes_.empty()) return absl::OkStatus();
  absl::Status undone = UndoAll(places_, changes_);
  undone.Update(Save());
  return undone;
}

absl::StatusOr<RestoredHost> HostJournal::RestoreLeftovers(const HostPlaces& places) {
  // Without a folder, as after a reboot, no run has a journal.
  const absl::StatusOr<UniqueFd> lock = LockFolder(places, LOCK_EX);
  RestoredHost restored;
  if (absl::IsAlreadyExists(lock.status())) return restored;
  absl::StatusOr<Changes> changes =
      lock.ok() || absl::IsNotFound(lock.status()) ? ReadChanges(places) : lock.status();
  if (!changes.ok()) {
    restored.left_alone.emplace_back(changes.status().message());
    return restored;
  }
  const std::vector<std::string> orphans = OrphansOf(places, *changes);
  absl::Status first;
  if (!changes->empty()) {
    for (const HostModification& change : *changes) Report(places, change, restored);
    HostJournal journal(places, UniqueFd(), *std::move(changes));
    // The next run of a user with the right to do so undoes a change that stays.
    first.Update(journal.PutBack());
  }
  for (const std::string& orphan : orphans) {
    restored.put_back.push_back("file " + orphan);
    first.Update(SwapFile::Remove(orphan));
  }
  if (!first.ok()) return first;
  return restored;
}

absl::StatusOr<std::vector<std::string>> HostJournal::Leftovers(const HostPlaces& places) {
  const absl::StatusOr<UniqueFd> lock = LockFolder(places, LOCK_SH);
  if (absl::IsAlreadyExists(lock.status())) return std::vector<std::string>();
  if (!lock.ok() && !absl::IsNotFound(lock.status())) return lock.status();
  const absl::StatusOr<Changes> changes = ReadChanges(places);
  if (!changes.ok()) return changes.status();
  RestoredHost left;
  for (const HostModification& change : *changes) Report(places, change, left);
  for (const std::string& orphan : OrphansOf(places, *changes)) {
    left.put_back.push_back("file " + orphan);
  }
  left.put_back.insert(left.put_back.end(), left.left_alone.begin(), left.left_alone.end());
  return left.put_back;
}

}  // namespace underfoot
