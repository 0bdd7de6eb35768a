// Changes of the host as a whole, made for one run and put back at its end: swap space, KSM's
// switch, a mount of tracefs. Only with the operator's leave (`--allow-host-changes`), each
// announced, each in a journal first: of a zram device the number that it will have.
//
// Thread safety: one thread at a time.

#ifndef UNDERFOOT_VMM_HOST_HOST_CHANGES_H_
#define UNDERFOOT_VMM_HOST_HOST_CHANGES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/host/host_journal.h"
#include "vmm/host/zram.h"
#include "vmm/unique_fd.h"

namespace underfoot {

class HostChanges {
 public:
  using Announce = std::function<void(std::string_view line)>;

  // `announce` is told of each change before it is made.
  explicit HostChanges(Announce announce, const HostPlaces& places = {})
      : announce_(std::move(announce)), places_(places), zram_(places), journal_(places) {}
  ~HostChanges();
  HostChanges(const HostChanges&) = delete;
  HostChanges& operator=(const HostChanges&) = delete;

  [[nodiscard]] absl::Status SetKnob(const std::string& path, const std::string& value);
  // Where tracefs belongs; without effect when it is mounted there.
  [[nodiscard]] absl::Status MountTracefs(const std::string& path = "/sys/kernel/tracing");
  // Swap space of `bytes`: a zram device, or else a file.
  [[nodiscard]] absl::Status AddSwap(uint64_t bytes);

  [[nodiscard]] absl::Status PutBack();

 private:
  absl::StatusOr<std::string> MakeZram(uint64_t bytes);
  absl::StatusOr<std::string> MakeSwapFile(uint64_t bytes);

  const Announce announce_;
  const HostPlaces places_;
  const Zram zram_;
  UniqueFd swap_file_;  // holds its lock
  HostJournal journal_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_HOST_HOST_CHANGES_H_
