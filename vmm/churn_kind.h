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
  kMust,  // at least one event when anything of the kind was done, while the source is on
};

enum class ChurnKind : uint8_t { kDiscard, kZap, kPunch, kWp, kProtect, kMemslot, kForeign };

struct ChurnKindInfo {
  ChurnKind kind;
  std::string_view name;  // in specs, JSON and metrics; stable
  bool needs_memfd;  // on private memory it would lose precious content, or has no file to punch
  std::array<Duty, kEventSources> duties;  // of the hooks, of userfaultfd, of the kernel
  std::string_view help;
};

namespace duty {
inline constexpr std::array kHooked = {Duty::kMust, Duty::kMay, Duty::kMust};
inline constexpr std::array kForeign = {Duty::kNone, Duty::kMust, Duty::kMust};
inline constexpr std::array kNobody = {Duty::kNone, Duty::kNone, Duty::kNone};
}  // namespace duty

inline constexpr std::array<ChurnKindInfo, 7> kChurnKinds = {{
    {ChurnKind::kDiscard, "discard", false, duty::kHooked,
     "give discardable pages back to the host (they read as zeroes)"},
    {ChurnKind::kZap, "zap", true, duty::kHooked,
     "drop the host's page table entries; memfd keeps the content"},
    {ChurnKind::kPunch, "punch", true, duty::kHooked,
     "punch holes into the memfd under discardable pages"},
    {ChurnKind::kWp, "wp", false, duty::kHooked, "write-protect pages with userfaultfd"},
    {ChurnKind::kProtect, "protect", false, duty::kHooked, "mprotect pages to read-only and back"},
    {ChurnKind::kMemslot, "memslot", false, duty::kNobody, "delete a memslot and add it again"},
    {ChurnKind::kForeign, "foreign", false, duty::kForeign,
     "discard from another process, past our own hooks"},
}};

// Operations a second of each kind; a kind that is absent is off.
using ChurnRates = std::map<ChurnKind, double>;
// Operations done of each kind since start.
using ChurnCounts = std::map<ChurnKind, uint64_t>;

constexpr std::string_view ChurnKindName(ChurnKind kind) {
  return kChurnKinds[static_cast<size_t>(kind)].name;
}

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
