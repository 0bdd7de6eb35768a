// Changes of the host as a whole, swap space and KSM's switch, which are made for one run and
// undone at its end. They need the operator's permission (`--allow-host-changes`). Each change is
// announced, and written to a journal before it is made; for a zram device the journal has the
// number that the device will get. Only one process at a time has this permission, for as long as
// its HostChanges lives.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_HOST_HOST_CHANGES_H_
#define UNDERFOOT_VMM_HOST_HOST_CHANGES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/host_journal.h"
#include "vmm/host/zram.h"

namespace underfoot {

class HostChanges {
 public:
  using Announce = std::function<void(std::string_view line)>;

  // `announce` is called before each change is made. An error: this user may not change the host,
  // or another process has the permission.
  static absl::StatusOr<std::unique_ptr<HostChanges>> Take(Announce announce,
                                                           const HostPlaces& places = {});
  ~HostChanges();
  HostChanges(const HostChanges&) = delete;
  HostChanges& operator=(const HostChanges&) = delete;

  [[nodiscard]] absl::Status SetKnob(const std::string& path, const std::string& value);
  // Adds swap space of `bytes`: on a zram device, or else in a file.
  [[nodiscard]] absl::Status AddSwap(uint64_t bytes);

  [[nodiscard]] absl::Status PutBack();

 private:
  HostChanges(Announce announce, const HostPlaces& places, HostJournal journal)
      : announce_(std::move(announce)),
        places_(places),
        zram_(places),
        journal_(std::move(journal)) {}
  // Undoes the last change, or notes that it was not made, and returns `why`.
  absl::Status Undone(absl::Status why);
  absl::Status NotMade(absl::Status why);
  absl::StatusOr<std::string> MakeZram(uint64_t bytes);
  absl::StatusOr<std::string> MakeSwapFile(uint64_t bytes);

  const Announce announce_;
  const HostPlaces places_;
  const Zram zram_;
  UniqueFd swap_file_;  // this descriptor holds the file's lock
  HostJournal journal_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HOST_CHANGES_H_
