#include "vmm/cli/help.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "vmm/config/churn_kind.h"

namespace underfoot {
namespace {

constexpr char kStatsFooter[] = R"(Examples:
  underfoot stats
  underfoot stats uffd --watch              one group, once a second, with the increase per second
  underfoot stats --nonzero --watch 5       the counters that are not 0, every 5 seconds
  underfoot stats --csv --watch > run.csv   a line of numbers a second, for a spreadsheet
On a terminal --watch shows what changes fastest, and as much of the rest as fits.
)";

constexpr char kEventsFooter[] =
    R"(`known`: another source had reported this change before. `invalidated`: a translation of the range
was dropped. `lag`: from the change until the source had acted on it.
An event of a hook names the call that this program made. Private memory in pages of 4 KiB is
discarded by UFFDIO_MOVE, which moves the pages out; memory of a memfd by fallocate, which punches
a hole.
)";

constexpr char kDevicesFooter[] =
    R"(status: the virtio status bits that the driver has set; 0xf: it drives the device. `needed`: the resets
that the device has asked for, because a ring was broken. NEXT: the number of the next answer of the
queue; -: not set up. REFRESHES: of the translations of its rings; IN REQUEST: those of them in
the middle of a request. docs/devices.md explains the others.
)";

constexpr char kDirtyFooter[] =
    R"(--take prints a line for each range: its first guest frame, and the frame after its last.
)";

constexpr char kCoverageFooter[] =
    R"(DONE counts the operations that the host did; `underfoot churn` also counts those that it declined.
docs/coverage.md explains the columns.
)";

constexpr char kChurnFooter[] = R"(Examples:
  underfoot churn
  underfoot churn --set discard:5000/s,memslot:50/s --start
  underfoot churn --stop
OPERATIONS counts also what the host declined; the DONE of `underfoot coverage` does not.
)";

constexpr char kControlFooter[] =
    "Without --control the command asks the only machine that runs. --control takes the path of a\n"
    "socket or the name of a machine.";

const char* BackingNote(BackingNeed need) {
  switch (need) {
    case BackingNeed::kAny:
      return "";
    case BackingNeed::kAnon:
      return " (anon only)";
    case BackingNeed::kMemfd:
      return " (memfd only)";
  }
  return "";
}

// Empty: the command needs no explanation beside its options.
const char* FooterOf(ClientVerb verb) {
  switch (verb) {
    case ClientVerb::kStats:
      return kStatsFooter;
    case ClientVerb::kDevices:
      return kDevicesFooter;
    case ClientVerb::kDirty:
      return kDirtyFooter;
    case ClientVerb::kCoverage:
      return kCoverageFooter;
    case ClientVerb::kEvents:
      return kEventsFooter;
    case ClientVerb::kChurn:
      return kChurnFooter;
    default:
      return "";
  }
}

}  // namespace

std::string RunFooter() {
  std::string text = "Kinds of churn:\n";
  for (const ChurnKindInfo& info : kChurnKinds) {
    absl::StrAppendFormat(&text, "  %-10s%s%s\n", info.name, info.help, BackingNote(info.backing));
  }
  text +=
      R"(A SPEC is off, mixed (2000/s in all), storm (20000/s), mixed:5000/s, or kinds with rates.
Examples:
  underfoot run --churn mixed
  underfoot run --backing memfd --churn discard:2000/s,memslot:20/s --seed 7
  underfoot run --guest stamp --vcpus 4 --memory 1G --churn storm --duration 2m --json
  underfoot run --guest ./my-guest.elf --duration 0 --control /tmp/my.sock
  underfoot run --kernel vmlinuz --initrd initrd.img --disk disk.img --console --churn pageout:100/s
The status line: `mismatches` are pages that the guest found wrong, `audit` wrong translations that no
source had reported. Both must stay 0.
The first HUP, INT or TERM ends the run normally, with verdict and summary. The second one ends it
at once, unless it is the same within 50 ms, because timeout(1) sends each twice. In both cases the
changes of the host are undone.
Exit codes:
  0  passed: the guest's verdict is good (Linux: it has powered off), the audit is clean, nothing
     leaked
  1  wrong: a mismatch, an unexplained difference, a lost operation, a leak
  2  could not run: an option, the host, rights
  3  did not finish: no verdict in time, interrupted twice, the churn, the output or the record ended
     early, or a Linux guest was switched off before it had powered off
  4  rebooted: a Linux guest asked for a reset, and nothing was wrong; start it again to go on)";
  return text;
}

std::string ClientFooter(ClientVerb verb) { return absl::StrCat(FooterOf(verb), kControlFooter); }

// The rest of the description of an option stands below its beginning.
std::string WrappedHelp(const std::string& help) {
  constexpr size_t kWidth = 100;
  constexpr size_t kDescription = 30;  // the column where the library begins the descriptions
  std::string text;
  for (std::string& line : std::vector<std::string>(absl::StrSplit(help, '\n'))) {
    while (line.size() > kWidth) {
      const size_t end = line.rfind(' ', kWidth);
      if (end == std::string::npos || end <= kDescription) break;
      absl::StrAppend(&text, line.substr(0, end), "\n");
      line = std::string(kDescription, ' ') + line.substr(end + 1);
    }
    absl::StrAppend(&text, line, "\n");
  }
  text.pop_back();
  return text;
}

}  // namespace underfoot
