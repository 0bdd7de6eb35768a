#include "vmm/churn/whole_host.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/churn/host_knobs.h"
#include "vmm/host/knob.h"

namespace underfoot {
namespace {

// The counter in /proc/vmstat; 0 if the kernel does not count this.
uint64_t MigratedPages() {
  std::ifstream file("/proc/vmstat");
  std::string name;
  uint64_t value = 0;
  while (file >> name >> value) {
    if (name == "pgmigrate_success") return value;
  }
  return 0;
}

absl::Status MovePages(std::vector<void*>& pages, const int* nodes, std::vector<int>& status) {
  if (syscall(SYS_move_pages, 0, pages.size(), pages.data(), nodes, status.data(), MPOL_MF_MOVE) >=
      0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrFormat("move_pages of %u pages", pages.size()));
}

}  // namespace

absl::StatusOr<ChurnOutcome> CompactHostMemory() {
  const uint64_t before = MigratedPages();
  if (absl::Status written = WriteKnob(kCompactMemory, "1"); !written.ok()) return written;
  return MigratedPages() == before ? ChurnOutcome::kDeclined : ChurnOutcome::kDone;
}

absl::StatusOr<ChurnOutcome> MigrateToAnotherNode(HvaRange range) {
  std::vector<void*> pages;
  for (Hva page = range.begin; page < range.end; page += kPageSize) {
    pages.push_back(PointerOf(page));
  }
  std::vector<int> status(pages.size(), -ENOENT);
  if (absl::Status asked = MovePages(pages, nullptr, status); !asked.ok()) return asked;
  // Moves pages from each of the first two nodes to the other. An absent page gets a negative
  // status.
  std::vector<void*> present;
  std::vector<int> nodes;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (status[i] < 0) continue;
    present.push_back(pages[i]);
    nodes.push_back(status[i] == 0 ? 1 : 0);
  }
  if (present.empty()) return ChurnOutcome::kDeclined;
  status.resize(present.size());
  if (absl::Status moved = MovePages(present, nodes.data(), status); !moved.ok()) return moved;
  for (size_t i = 0; i < present.size(); ++i) {
    if (status[i] == nodes[i]) return ChurnOutcome::kDone;
  }
  return ChurnOutcome::kDeclined;
}

}  // namespace underfoot
