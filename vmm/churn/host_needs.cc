#include "vmm/churn/host_needs.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "vmm/churn/host_knobs.h"
#include "vmm/host/capability.h"
#include "vmm/host/knob.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot {
namespace {

constexpr char kLeave[] = "start with --allow-host-changes, as root";

// Counts the numbers in a list; "0-1,3" has three.
uint64_t CountOfList(const std::string& list) {
  uint64_t count = 0;
  for (size_t at = 0; at < list.size();) {
    size_t used = 0;
    const uint64_t first = std::stoull(list.substr(at), &used);
    uint64_t last = first;
    at += used;
    if (at < list.size() && list[at] == '-') {
      last = std::stoull(list.substr(at + 1), &used);
      at += used + 1;
    }
    count += last - first + 1;
    ++at;  // skips the comma
  }
  return count;
}

bool HostHasSwap() {
  std::ifstream file("/proc/swaps");
  std::string head;
  std::string first;
  return std::getline(file, head) && std::getline(file, first);
}

std::string Because(const absl::Status& status) { return std::string(status.message()); }

std::string ProvideSwap(uint64_t memory_bytes, HostChanges* changes) {
  if (HostHasSwap()) return "";
  if (changes == nullptr) return absl::StrFormat("needs swap space; add some, or %s", kLeave);
  const absl::Status added = changes->AddSwap(memory_bytes);
  return added.ok() ? "" : "needs swap space, and none could be added: " + Because(added);
}

std::string ProvideKsm(HostChanges* changes) {
  const absl::StatusOr<std::string> run = ReadKnob(kKsmRun);
  if (!run.ok()) return "needs a kernel with KSM (CONFIG_KSM)";
  if (*run == "1" && changes == nullptr) return "";
  if (changes == nullptr) {
    return absl::StrFormat("needs KSM to run; echo 1 > %s, or %s", kKsmRun, kLeave);
  }
  // By default KSM examines 100 pages every 20 ms: a pass over a guest would take minutes.
  for (const auto& [knob, value] :
       {std::pair{kKsmPagesToScan, "5000"}, {kKsmSleepMs, "5"}, {kKsmRun, "1"}}) {
    if (const absl::Status set = changes->SetKnob(knob, value); !set.ok()) {
      return "needs KSM to run: " + Because(set);
    }
  }
  return "";
}

std::string ProvideCompaction(const HostChanges* changes) {
  if (changes == nullptr) {
    return absl::StrFormat("moves pages of the whole host; %s", kLeave);
  }
  if (access(kCompactMemory, W_OK) == 0) return "";
  return absl::StrFormat("needs to write %s; run as root, on a kernel with CONFIG_COMPACTION",
                         kCompactMemory);
}

std::string ProvideTwoNodes() {
  const absl::StatusOr<std::string> nodes = ReadKnob(kNodesWithMemory);
  if (nodes.ok() && CountOfList(*nodes) >= 2) return "";
  return "needs two NUMA nodes with memory";
}

std::string ProvideMovingPages() {
  const auto uffd = Userfaultfd::Open({.events = UffdEvents::kNone, .move = true});
  return uffd.ok() ? "" : "needs UFFDIO_MOVE, which Linux 6.8 has";
}

// process_madvise(2) on another process needs this capability, even if both processes have the same
// user.
std::string MayAdviseOthers() {
  return HasCapability(CAP_SYS_NICE) ? "" : "needs CAP_SYS_NICE for process_madvise; run as root";
}

std::string Provide(HostNeed need, uint64_t memory_bytes, HostChanges* changes) {
  switch (need) {
    case HostNeed::kNothing:
      return "";
    case HostNeed::kSwap:
      return ProvideSwap(memory_bytes, changes);
    case HostNeed::kKsm:
      return ProvideKsm(changes);
    case HostNeed::kCompaction:
      return ProvideCompaction(changes);
    case HostNeed::kTwoNodes:
      return ProvideTwoNodes();
    case HostNeed::kMovingPages:
      return ProvideMovingPages();
  }
  return "";
}

}  // namespace

ChurnLimits ProvideForChurn(ChurnLimits limits, uint64_t memory_bytes, const ChurnRates& wanted,
                            HostChanges* changes) {
  std::map<HostNeed, std::string> why_not;  // each need is checked only once
  for (const ChurnKindInfo& info : kChurnKinds) {
    if (info.host == HostNeed::kNothing || !limits.UnavailableReason(info.kind).empty()) continue;
    // The host is not changed for a kind that was not requested.
    HostChanges* const leave = wanted.count(info.kind) != 0 ? changes : nullptr;
    const auto known = why_not.find(info.host);
    const bool satisfied = known != why_not.end() && known->second.empty();
    const std::string why = satisfied ? "" : Provide(info.host, memory_bytes, leave);
    why_not[info.host] = why;
    if (!why.empty()) limits.unavailable[info.kind] = why;
  }
  const std::string why = MayAdviseOthers();
  if (!why.empty() && limits.UnavailableReason(ChurnKind::kAdversary).empty()) {
    limits.unavailable[ChurnKind::kAdversary] = why;
  }
  return limits;
}

}  // namespace underfoot
