// The kinds of churn, which move host memory on purpose while the guest runs.
//
// Each kind is one row of kChurnKinds. The command line, the control socket, the statistics and the
// schedule all read this table, so a new kind needs only an enumerator and a row.
//
// Thread safety: values and constants.

#ifndef UNDERFOOT_VMM_CONFIG_CHURN_KIND_H_
#define UNDERFOOT_VMM_CONFIG_CHURN_KIND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "vmm/evidence/host_event.h"

namespace underfoot {

// What a source must observe of a kind of churn.
enum class Duty : uint8_t {
  kNone,  // the source cannot observe it, or need not
  kMay,   // it observes some operations, depending on the earlier state of the page
  kMust,  // at least one event after enough operations of the kind, while the source is on
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

// The backing on which a kind is possible. On the other one it would destroy precious content, or
// do nothing.
enum class BackingNeed : uint8_t { kAny, kAnon, kMemfd };

// What a kind needs from the host as a whole; see churn/host_needs.h.
enum class HostNeed : uint8_t { kNothing, kSwap, kKsm, kCompaction, kTwoNodes, kMovingPages };

struct ChurnKindInfo {
  ChurnKind kind;
  std::string_view name;  // used in specs, JSON and metrics; it never changes
  BackingNeed backing;
  HostNeed host;
  double share;  // its part of a preset, in thousandths; added to discard if the kind is impossible
  std::array<Duty, kEventSources> duties;  // in this order: the hooks, userfaultfd, the kernel
  std::string_view help;
  // Why guest RAM of hugetlb pages cannot bear it; empty: it can, and acts on whole huge pages.
  std::string_view not_on_hugetlb = {};
};

namespace duty {
inline constexpr std::array kHooked = {Duty::kMust, Duty::kMay, Duty::kMust};
// Nothing changes, so no source needs to observe it.
inline constexpr std::array kAdvised = {Duty::kMay, Duty::kNone, Duty::kMay};
inline constexpr std::array kMapped = {Duty::kMust, Duty::kMust, Duty::kMust};
inline constexpr std::array kForeign = {Duty::kNone, Duty::kMust, Duty::kMust};
inline constexpr std::array kKernelOnly = {Duty::kMay, Duty::kMay, Duty::kMust};
inline constexpr std::array kNobody = {Duty::kNone, Duty::kNone, Duty::kNone};
}  // namespace duty

// The shares follow the costs: a collapse or a fork takes as long as many discards.
inline constexpr std::array<ChurnKindInfo, 19> kChurnKinds = {{
    {ChurnKind::kDiscard, "discard", BackingNeed::kAny, HostNeed::kNothing, 270, duty::kHooked,
     "give discardable pages back to the host (they read as zeroes)"},
    {ChurnKind::kZap, "zap", BackingNeed::kMemfd, HostNeed::kNothing, 200, duty::kHooked,
     "drop the host's page table entries; the memfd keeps the content"},
    {ChurnKind::kPunch, "punch", BackingNeed::kMemfd, HostNeed::kNothing, 140, duty::kHooked,
     "punch holes into the memfd under discardable pages"},
    {ChurnKind::kFree, "free", BackingNeed::kAnon, HostNeed::kNothing, 50, duty::kHooked,
     "let the host take discardable pages when it likes (MADV_FREE)",
     "does nothing to hugetlb pages, which the host never frees lazily"},
    {ChurnKind::kPageout, "pageout", BackingNeed::kAny, HostNeed::kSwap, 40, duty::kHooked,
     "reclaim pages to swap space", "does nothing to hugetlb pages, which are never swapped out"},
    {ChurnKind::kCold, "cold", BackingNeed::kAny, HostNeed::kNothing, 20, duty::kAdvised,
     "advise the host that pages are not needed soon",
     "does nothing to hugetlb pages, which the host does not age"},
    {ChurnKind::kCollapse, "collapse", BackingNeed::kAny, HostNeed::kNothing, 2, duty::kHooked,
     "put 512 pages into one huge page",
     "makes huge pages of small ones, and hugetlb pages are huge already"},
    {ChurnKind::kSplit, "split", BackingNeed::kAny, HostNeed::kNothing, 2, duty::kHooked,
     "split the mapping of a huge page",
     "splits the mapping of a huge page, and that of a hugetlb page cannot be split"},
    {ChurnKind::kMerge, "merge", BackingNeed::kAnon, HostNeed::kKsm, 1, duty::kHooked,
     "let KSM merge equal pages, and break them apart again",
     "does nothing to hugetlb pages: KSM merges pages of 4 KiB"},
    {ChurnKind::kFork, "fork", BackingNeed::kAnon, HostNeed::kNothing, 5, duty::kKernelOnly,
     "fork with some pages and keep the child alive for a while: writes copy them",
     "needs a free hugetlb page for each write to a page that a child shares"},
    {ChurnKind::kCompact, "compact", BackingNeed::kAny, HostNeed::kCompaction, 0.25,
     duty::kKernelOnly, "compact the memory of the host"},
    {ChurnKind::kMigrate, "migrate", BackingNeed::kAny, HostNeed::kTwoNodes, 10, duty::kKernelOnly,
     "move pages to another NUMA node"},
    {ChurnKind::kMove, "move", BackingNeed::kAnon, HostNeed::kMovingPages, 20, duty::kHooked,
     "move pages away and back (UFFDIO_MOVE)",
     "does not work on hugetlb pages: UFFDIO_MOVE refuses them"},
    {ChurnKind::kRemap, "remap", BackingNeed::kAny, HostNeed::kNothing, 10, duty::kMapped,
     "move the mapping of pages away and back (mremap)",
     "does not work on hugetlb pages: MREMAP_DONTUNMAP refuses them"},
    {ChurnKind::kWp, "wp", BackingNeed::kAny, HostNeed::kNothing, 110, duty::kHooked,
     "write-protect pages with userfaultfd"},
    {ChurnKind::kProtect, "protect", BackingNeed::kAny, HostNeed::kNothing, 70, duty::kHooked,
     "mprotect pages to read-only and back"},
    {ChurnKind::kMemslot, "memslot", BackingNeed::kAny, HostNeed::kNothing, 10, duty::kNobody,
     "delete a memslot, or move it to another gpa, and bring it back"},
    {ChurnKind::kForeign, "foreign", BackingNeed::kAny, HostNeed::kNothing, 40, duty::kForeign,
     "discard by a raw system call, past our own hooks"},
    {ChurnKind::kAdversary, "adversary", BackingNeed::kAny, HostNeed::kSwap, 20, duty::kKernelOnly,
     "reclaim pages from another process (process_madvise)",
     "does nothing to hugetlb pages, which are never swapped out"},
}};

constexpr const ChurnKindInfo& InfoOf(ChurnKind kind) {
  return kChurnKinds[static_cast<size_t>(kind)];
}

// Operations per second of each kind. A kind that is absent is off.
using ChurnRates = std::map<ChurnKind, double>;
// The number of operations of each kind since the start.
using ChurnCounts = std::map<ChurnKind, uint64_t>;

// Whether other threads perform, or complete, an operation of this kind: KSM merges pages, a
// guest's write copies a page that a child shares, the kernel's own threads reclaim and migrate.
constexpr bool LetsOthersAct(ChurnKind kind) {
  return kind == ChurnKind::kMerge || kind == ChurnKind::kFork || kind == ChurnKind::kCompact ||
         kind == ChurnKind::kMigrate || kind == ChurnKind::kFree || kind == ChurnKind::kPageout ||
         kind == ChurnKind::kAdversary;
}

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

#endif  // UNDERFOOT_VMM_CONFIG_CHURN_KIND_H_
