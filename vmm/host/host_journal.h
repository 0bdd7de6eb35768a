// A record of what a run changes about the host as a whole. Each change is written down before it
// is made, so that it can be undone: at the end of the run, and after a crash by the next run or by
// `doctor --restore`.
//
//   DIR/changes.json   {"changes": [{"kind", "path", "before"}, ...]}
//
// One process at a time changes the host. It holds an exclusive flock on DIR for as long as its
// HostJournal lives. Therefore a journal in a folder that is not locked is left over from a killed
// run. A swap file of ours that is not locked is left over too; it survives a reboot, and a journal
// does not. Undoing is idempotent and goes from the last change to the first.
//
// Thread safety: one thread in each process; several processes may use the same DIR at once.

#ifndef UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_
#define UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/host_places.h"

namespace underfoot {

enum class HostChangeKind : uint8_t {
  kKnob,  // a file of /proc/sys or /sys; before: its earlier content
  kZram,  // a zram device; path: its number
  kFile,  // a file that the run created
  kSwap,  // swap space; path: its device or file
  // A zram device that is about to be made; path: the number that it will get; before: the time.
  kZramToBe,
};

struct HostModification {
  HostChangeKind kind = HostChangeKind::kKnob;
  std::string path;
  std::string before;

  friend bool operator==(const HostModification&, const HostModification&) = default;
};

// A description for people, for example "swap on /dev/zram1".
std::string Describe(const HostModification& change);

// Descriptions for people, one line for each change.
struct RestoredHost {
  std::vector<std::string> put_back;
  // May belong to another program; the line says what to do if not.
  std::vector<std::string> left_alone;
};

class HostJournal {
 public:
  // Takes the lock. A second process gets an error with the process number of the first. Nothing is
  // written before the first change. `changes()` contains what a killed run left behind, if it
  // still exists.
  static absl::StatusOr<HostJournal> Open(const HostPlaces& places = {});
  // Releases the lock, even if a child has inherited the descriptor.
  ~HostJournal();
  HostJournal(HostJournal&&) noexcept = default;
  HostJournal& operator=(HostJournal&&) = delete;

  // Called before the change is made.
  [[nodiscard]] absl::Status Write(HostModification change);
  // Replaces the last change, after more about it has become known.
  [[nodiscard]] absl::Status Amend(HostModification change);
  // Removes the last change, which was not made.
  [[nodiscard]] absl::Status Withdraw();
  // Undoes the last change, which was made and is of no use.
  [[nodiscard]] absl::Status UndoLast();
  // Undoes everything. Returns the first error, and undoes the rest nevertheless. A change that
  // could not be undone stays in the journal.
  [[nodiscard]] absl::Status PutBack();

  const std::vector<HostModification>& changes() const { return changes_; }

  // Undoes what a dead process left behind. Does nothing while another process holds the lock.
  static absl::StatusOr<RestoredHost> RestoreLeftovers(const HostPlaces& places = {});
  // Lists what RestoreLeftovers would undo, one line for each change. An error: there may be
  // leftovers, but they cannot be read.
  static absl::StatusOr<std::vector<std::string>> Leftovers(const HostPlaces& places = {});

 private:
  HostJournal(HostPlaces places, UniqueFd lock, std::vector<HostModification> changes)
      : places_(std::move(places)), lock_(std::move(lock)), changes_(std::move(changes)) {}
  absl::Status Save() const;

  HostPlaces places_;
  UniqueFd lock_;  // on the folder
  std::vector<HostModification> changes_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_
