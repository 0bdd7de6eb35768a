#include "tests/bench/caused_records.h"

#include <linux/perf_event.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/bench/cpus.h"
#include "vmm/sources/kernel/kvm_tracepoints.h"

namespace underfoot::bench {
namespace {

constexpr size_t kRingPages = 256;

// A function of the kernel and what it does to pages. Names begin so: the compiler appends
// suffixes, and versions of the kernel append words.
struct KnownFunction {
  std::string_view name;
  std::string_view cause;
};
constexpr KnownFunction kFunctions[] = {
    {"task_numa_work", "NUMA balancing"},
    {"uffd_wp_range", "userfaultfd write-protect"},
    {"move_pages", "userfaultfd move"},
    {"do_wp_page", "copy on write"},
    {"wp_page_copy", "copy on write"},
    {"do_numa_page", "NUMA balancing"},
    {"mprotect_fixup", "mprotect"},
    {"clear_refs_write", "clear_refs"},
    {"collapse_huge_page", "collapse"},
    {"hpage_collapse", "collapse"},
    {"madvise_collapse", "collapse"},
    {"__split_huge_pmd", "split"},
    {"split_huge_pmd", "split"},
    {"try_to_migrate", "migration"},
    {"migrate_pages", "migration"},
    {"try_to_merge", "KSM"},
    {"ksm_", "KSM"},
    {"reclaim_pages", "page-out"},
    {"shrink_folio_list", "reclaim"},
    {"madvise_free", "MADV_FREE"},
    {"madvise_dontneed", "discard"},
    {"unmap_mapping", "hole or truncation"},
    {"copy_page_range", "fork"},
    {"dup_mmap", "fork"},
    {"move_page_tables", "mremap"},
    {"unmap_region", "munmap"},
    {"unmap_vmas", "munmap"},
};
// Called for several of the causes above, so it decides only if none of them is in the chain.
constexpr KnownFunction kZap{"zap_page_range", "discard"};

template <class T>
std::optional<T> TakeValue(std::span<const std::byte>& bytes) {
  if (bytes.size() < sizeof(T)) return std::nullopt;
  T value{};
  std::memcpy(&value, bytes.data(), sizeof(T));
  bytes = bytes.subspan(sizeof(T));
  return value;
}

}  // namespace

absl::StatusOr<KernelSymbols> KernelSymbols::Read(const std::string& path) {
  KernelSymbols symbols;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    uint64_t address = 0;
    std::string kind;
    std::string name;
    words >> std::hex >> address >> kind >> name;
    if (address != 0 && (kind == "t" || kind == "T")) symbols.by_address_.emplace(address, name);
  }
  if (symbols.by_address_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " shows no addresses; run as root with kernel.kptr_restrict=0 or 1"));
  }
  return symbols;
}

std::string KernelSymbols::NameOf(uint64_t address) const {
  const auto after = by_address_.upper_bound(address);
  return after == by_address_.begin() ? std::string() : std::prev(after)->second;
}

std::string CauseOf(std::span<const std::string> chain) {
  for (const std::string& function : chain) {
    for (const KnownFunction& known : kFunctions) {
      if (function.starts_with(known.name)) return std::string(known.cause);
    }
  }
  for (const std::string& function : chain) {
    if (function.starts_with(kZap.name)) return std::string(kZap.cause);
  }
  return "other";
}

absl::StatusOr<std::unique_ptr<CausedRecords>> CausedRecords::Open(HvaRange range) {
  // Read once: there are many. Modules that are loaded later have no names.
  static const absl::StatusOr<KernelSymbols> symbols = KernelSymbols::Read();
  if (!symbols.ok()) return symbols.status();
  const absl::StatusOr<Tracefs> tracefs = Tracefs::Open();
  if (!tracefs.ok()) return tracefs.status();
  const absl::StatusOr<TraceEvent> event = tracefs->ReadEvent("kvm/kvm_unmap_hva_range");
  if (!event.ok()) return event.status();
  const absl::StatusOr<TraceField> start = event->Field("start");
  const absl::StatusOr<TraceField> end = event->Field("end");
  if (!start.ok()) return start.status();
  if (!end.ok()) return end.status();
  std::unique_ptr<CausedRecords> records(new CausedRecords(*symbols));
  records->start_ = *start;
  records->end_ = *end;
  const absl::Status watched = records->Watch(event->id, range);
  if (!watched.ok()) return watched;
  return records;
}

absl::Status CausedRecords::Watch(uint64_t tracepoint, HvaRange range) {
  perf_event_attr attr{};
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.size = sizeof(attr);
  attr.config = tracepoint;
  attr.sample_period = 1;
  attr.sample_type = PERF_SAMPLE_CALLCHAIN | PERF_SAMPLE_RAW;
  attr.exclude_callchain_user = 1;
  for (const int cpu : AllowedCpus()) {
    UniqueFd fd(OpenPerfEvent(attr, cpu));
    if (!fd.valid()) {
      return absl::ErrnoToStatus(errno, "perf_event_open of kvm_unmap_hva_range with call chains");
    }
    const std::string filter =
        absl::StrFormat("start < 0x%x && end > 0x%x", range.end.value, range.begin.value);
    if (ioctl(fd.get(), PERF_EVENT_IOC_SET_FILTER, filter.c_str()) != 0) {
      return absl::ErrnoToStatus(errno, "a filter of kvm_unmap_hva_range");
    }
    absl::StatusOr<PerfRing> ring = PerfRing::Map(fd.get(), kRingPages);
    if (!ring.ok()) return std::move(ring).status();
    cpus_.push_back({std::move(fd), *std::move(ring)});
  }
  return absl::OkStatus();
}

std::vector<CausedRecord> CausedRecords::Take() {
  std::vector<CausedRecord> records;
  for (Watched& cpu : cpus_) {
    static_cast<void>(cpu.ring.Drain([&](uint32_t type, std::span<const std::byte> body) {
      if (type == PERF_RECORD_SAMPLE) Add(body, records);
    }));
  }
  return records;
}

// The body is: the length of the chain, its addresses, the length of the raw data, the raw data.
void CausedRecords::Add(std::span<const std::byte> body, std::vector<CausedRecord>& records) const {
  std::vector<std::string> chain;
  for (uint64_t left = TakeValue<uint64_t>(body).value_or(0); left > 0; --left) {
    const std::optional<uint64_t> address = TakeValue<uint64_t>(body);
    if (!address.has_value()) return;
    // Addresses from here on mark a context, as PERF_CONTEXT_KERNEL does.
    if (*address < static_cast<uint64_t>(PERF_CONTEXT_MAX))
      chain.push_back(symbols_.NameOf(*address));
  }
  if (!TakeValue<uint32_t>(body).has_value()) return;
  const std::optional<uint64_t> start = start_.In(body);
  const std::optional<uint64_t> end = end_.In(body);
  if (!start.has_value() || !end.has_value()) return;
  records.push_back({{{*start}, {*end}}, CauseOf(chain)});
}

}  // namespace underfoot::bench
