// The kinds of churn: what moves host memory on purpose while the guest runs.
//
// One row of kChurnKinds a kind. The command line, the control socket, the statistics and the
// schedule all read this table, so a new kind is one enumerator and one row.
//
// Thread safety: values and constants.

#ifndef UNDERFOOT_VMM_CHURN_KIND_H_
#define UNDERFOOT_VMM_CHURN_KIND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "vmm/memory/host_event.h"

namespace underfoot {

// What a source owes to a kind of churn.
enum class Duty : uint8_t {
  kNone,  // it cannot see it, or need not
  kMay,   // it sees some of it: what the page was before decides
  kMust,  // at least one event when enough of the kind was done, while the source is on
};

enum class ChurnKind : uint8_t {
  kDiscard,
  kZap,
  kPunch,
  kFree,
  kPageout,
  kCold,
  kCollapse,
  kSplit,
  kMerge,
  kFork,
  kCompact,
  kMigrate,
  kMove,
  kRemap,
  kWp,
  kProtect,
  kMemslot,
  kForeign,
  kAdversary,
};

// Of which backing a kind can be. On another it would lose precious content, or do nothing.
enum class BackingNeed : uint8_t { kAny, kAnon, kMemfd };

// What a kind needs of the host as a whole; see churn/host_needs.h.
enum class HostNeed : uint8_t { kNothing, kSwap, kKsm, kCompaction, kTwoNodes, kMovingPages };

struct ChurnKindInfo {
  ChurnKind kind;
  std::string_view name;  // in specs, JSON and metrics; stable
  BackingNeed backing;
  HostNeed host;
  double share;  // of a preset, in thousandths; it goes to discard where the kind is impossible
  std::array<Duty, kEventSources> duties;  // of the hooks, of userfaultfd, of the kernel
  std::string_view help;
};

namespace duty {
inline constexpr std::array kHooked = {Duty::kMust, Duty::kMay, Duty::kMust};
// Nothing changes: there is nothing that anybody has to see.
inline constexpr std::array kAdvised = {Duty::kMay, Duty::kNone, Duty::kMay};
inline constexpr std::array kMapped = {Duty::kMust, Duty::kMust, Duty::kMust};
inline constexpr std::array kForeign = {Duty::kNone, Duty::kMust, Duty::kMust};
inline constexpr std::array kKernelOnly = {Duty::kMay, Duty::kMay, Duty::kMust};
inline constexpr std::array kNobody = {Duty::kNone, Duty::kNone, Duty::kNone};
}  // namespace duty

// The shares follow the costs: a collapse or a fork takes as long as a thousand discards.
inline constexpr std::array<ChurnKindInfo, 19> kChurnKinds = {{
    {ChurnKind::kDiscard, "discard", BackingNeed::kAny, HostNeed::kNothing, 270, duty::kHooked,
     "give discardable pages back to the host (they read as zeroes)"},
    {ChurnKind::kZap, "zap", BackingNeed::kMemfd, HostNeed::kNothing, 200, duty::kHooked,
     "drop the host's page table entries; the memfd keeps the content"},
    {ChurnKind::kPunch, "punch", BackingNeed::kMemfd, HostNeed::kNothing, 140, duty::kHooked,
     "punch holes into the memfd under discardable pages"},
    {ChurnKind::kFree, "free", BackingNeed::kAnon, HostNeed::kNothing, 50, duty::kHooked,
     "let the host take discardable pages when it likes (MADV_FREE)"},
    {ChurnKind::kPageout, "pageout", BackingNeed::kAny, HostNeed::kSwap, 40, duty::kHooked,
     "reclaim pages to swap space"},
    {ChurnKind::kCold, "cold", BackingNeed::kAny, HostNeed::kNothing, 20, duty::kAdvised,
     "tell the host that pages are not needed soon"},
    {ChurnKind::kCollapse, "collapse", BackingNeed::kAny, HostNeed::kNothing, 2, duty::kHooked,
     "put 512 pages into one huge page"},
    {ChurnKind::kSplit, "split", BackingNeed::kAny, HostNeed::kNothing, 2, duty::kHooked,
     "split the mapping of a huge page"},
    {ChurnKind::kMerge, "merge", BackingNeed::kAnon, HostNeed::kKsm, 1, duty::kHooked,
     "let KSM merge equal pages, and break them apart again"},
    {ChurnKind::kFork, "fork", BackingNeed::kAnon, HostNeed::kNothing, 5, duty::kKernelOnly,
     "fork with some pages and keep the child alive for a while: writes copy them"},
    {ChurnKind::kCompact, "compact", BackingNeed::kAny, HostNeed::kCompaction, 0.25,
     duty::kKernelOnly, "compact the memory of the host"},
    {ChurnKind::kMigrate, "migrate", BackingNeed::kAny, HostNeed::kTwoNodes, 10, duty::kKernelOnly,
     "move pages to another NUMA node"},
    {ChurnKind::kMove, "move", BackingNeed::kAnon, HostNeed::kMovingPages, 20, duty::kHooked,
     "move pages away and back (UFFDIO_MOVE)"},
    {ChurnKind::kRemap, "remap", BackingNeed::kAny, HostNeed::kNothing, 10, duty::kMapped,
     "move the mapping of pages away and back (mremap)"},
    {ChurnKind::kWp, "wp", BackingNeed::kAny, HostNeed::kNothing, 110, duty::kHooked,
     "write-protect pages with userfaultfd"},
    {ChurnKind::kProtect, "protect", BackingNeed::kAny, HostNeed::kNothing, 70, duty::kHooked,
     "mprotect pages to read-only and back"},
    {ChurnKind::kMemslot, "memslot", BackingNeed::kAny, HostNeed::kNothing, 10, duty::kNobody,
     "delete a memslot, or move it to another gpa, and bring it back"},
    {ChurnKind::kForeign, "foreign", BackingNeed::kAny, HostNeed::kNothing, 40, duty::kForeign,
     "discard by a raw system call, past our own hooks"},
    {ChurnKind::kAdversary, "adversary", BackingNeed::kAny, HostNeed::kSwap, 20, duty::kKernelOnly,
     "reclaim pages from another process (process_madvise)"},
}};

constexpr const ChurnKindInfo& InfoOf(ChurnKind kind) {
  return kChurnKinds[static_cast<size_t>(kind)];
}

// Operations a second of each kind; a kind that is absent is off.
using ChurnRates = std::map<ChurnKind, double>;
// Operations done of each kind since start.
using ChurnCounts = std::map<ChurnKind, uint64_t>;

constexpr std::string_view ChurnKindName(ChurnKind kind) { return InfoOf(kind).name; }

constexpr std::optional<ChurnKind> FindChurnKind(std::string_view name) {
  for (const ChurnKindInfo& info : kChurnKinds) {
    if (info.name == name) return info.kind;
  }
  return std::nullopt;
}

constexpr bool ChurnKindsAreInOrder() {
  for (size_t i = 0; i < kChurnKinds.size(); ++i) {
    if (static_cast<size_t>(kChurnKinds[i].kind) != i) return false;
  }
  return true;
}
static_assert(ChurnKindsAreInOrder(), "ChurnKindName indexes the table by the enumerator");

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CHURN_KIND_H_
