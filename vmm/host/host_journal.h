// What a run has changed about the host as a whole, written down before it is done, so that it can
// be put back: at the end of the run, and after a crash by the next run or `doctor --restore`.
//
//   DIR/PID.json   {"pid", "started", "changes": [{"kind", "path", "before"}, ...]}
//
// A journal whose process is gone is a leftover, and so is a swap file of ours that no process
// holds: it outlives a reboot, a journal does not. Undoing is idempotent and goes from the last
// change to the first. A knob that another living run has changed too keeps its value until the
// last of them ends, which puts back what the first one found.
//
// Thread safety: one thread; several processes at once.

#ifndef UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_
#define UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/host/host_places.h"

namespace underfoot {

enum class HostChangeKind : uint8_t {
  kKnob,   // a file of /proc/sys or /sys; before: its content
  kMount,  // a file system; path: where
  kZram,   // a zram device; path: its number
  kFile,   // a file that was made
  kSwap,   // swap space; path: its device or file
  // A zram device that is to be made; path: the number that it will have; before: the time.
  kZramToBe,
};

struct HostModification {
  HostChangeKind kind = HostChangeKind::kKnob;
  std::string path;
  std::string before;

  friend bool operator==(const HostModification&, const HostModification&) = default;
};

// For people: "swap on /dev/zram1".
std::string Describe(const HostModification& change);

// For people, a line each.
struct RestoredHost {
  std::vector<std::string> put_back;
  std::vector<std::string> left_alone;  // may be somebody else's; with what to do if it is not
};

class HostJournal {
 public:
  // Nothing is written before the first change.
  explicit HostJournal(HostPlaces places = {});

  // Before the change is made.
  [[nodiscard]] absl::Status Write(HostModification change);
  // In place of the last one, of which more is known now.
  [[nodiscard]] absl::Status Amend(HostModification change);
  // The last one was not made.
  [[nodiscard]] absl::Status Withdraw();
  // Undoes everything. The first error is returned, the rest is undone all the same; what could not
  // be stays in the journal.
  [[nodiscard]] absl::Status PutBack();

  const std::vector<HostModification>& changes() const { return changes_; }
  // What a knob held before any living run changed it; nullopt: none has.
  std::optional<std::string> OriginalOf(const std::string& knob) const;

  // Undoes what processes left behind that are gone.
  static absl::StatusOr<RestoredHost> RestoreLeftovers(const HostPlaces& places = {});
  // What would be restored, a line each.
  static std::vector<std::string> Leftovers(const HostPlaces& places = {});

 private:
  absl::Status Save() const;

  const HostPlaces places_;
  const std::string path_;
  std::vector<HostModification> changes_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HOST_JOURNAL_H_
