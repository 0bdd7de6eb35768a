#include "vmm/memory/kvm_tracepoints.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

constexpr std::array<const char*, 3> kNames = {"kvm/kvm_unmap_hva_range", "kvm/kvm_age_hva",
                                               "kvm/kvm_test_age_hva"};

// The CPUs of "0-3,8": an event lives on one that is online.
std::vector<int> OnlineCpus() {
  std::vector<int> cpus;
  std::ifstream file("/sys/devices/system/cpu/online");
  for (int first = 0; file >> first;) {
    int last = first;
    if (file.peek() == '-') file.ignore() >> last;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (file.peek() == ',') file.ignore();
  }
  if (cpus.empty()) cpus.push_back(0);
  return cpus;
}

absl::Status OpenError(int error, const char* name) {
  const bool refused = error == EACCES || error == EPERM;
  return absl::ErrnoToStatus(
      error,
      absl::StrFormat("perf_event_open of %s; %s", name,
                      refused ? "run as root or with CAP_PERFMON, or sysctl "
                                "kernel.perf_event_paranoid=-1"
                              : "use a kernel with CONFIG_PERF_EVENTS and CONFIG_EVENT_TRACING"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvmTracepoints>> KvmTracepoints::Open(HvaRange range) {
  return Open(range, Options());
}

absl::StatusOr<std::unique_ptr<KvmTracepoints>> KvmTracepoints::Open(HvaRange range,
                                                                     const Options& options) {
  std::unique_ptr<KvmTracepoints> source(new KvmTracepoints);
  if (absl::Status described = source->Describe(options); !described.ok()) return described;
  for (const int cpu : OnlineCpus()) {
    if (absl::Status opened = source->OpenOn(cpu, range, options); !opened.ok()) return opened;
  }
  return source;
}

absl::Status KvmTracepoints::Describe(const Options& options) {
  for (const Kind kind : {Kind::kUnmap, Kind::kAge, Kind::kTestAge}) {
    absl::StatusOr<TraceEvent> event =
        ReadTraceEvent(options.tracefs, kNames[static_cast<size_t>(kind)]);
    if (!event.ok()) return std::move(event).status();
    Layout& layout = layouts_[static_cast<size_t>(kind)];
    layout.id = event->id;
    absl::StatusOr<TraceField> begin = event->Field(kind == Kind::kTestAge ? "hva" : "start");
    if (!begin.ok()) return std::move(begin).status();
    layout.begin = *begin;
    if (kind == Kind::kTestAge) continue;
    absl::StatusOr<TraceField> end = event->Field("end");
    if (!end.ok()) return std::move(end).status();
    layout.end = *end;
  }
  return absl::OkStatus();
}

absl::StatusOr<int> KvmTracepoints::OpenEvent(Kind kind, int cpu, HvaRange range,
                                              uint32_t watermark) {
  const char* const name = kNames[static_cast<size_t>(kind)];
  perf_event_attr attr{};
  attr.type = PERF_TYPE_TRACEPOINT;
  attr.size = sizeof(attr);
  attr.config = layouts_[static_cast<size_t>(kind)].id;
  attr.sample_period = 1;
  attr.sample_type = kPerfSampleType;
  attr.disabled = 1;
  attr.watermark = 1;
  attr.wakeup_watermark = watermark;
  attr.use_clockid = 1;
  attr.clockid = CLOCK_MONOTONIC;
  UniqueFd fd(
      static_cast<int>(syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!fd.valid()) return OpenError(errno, name);
  const std::string filter =
      kind == Kind::kTestAge
          ? absl::StrFormat("hva >= 0x%x && hva < 0x%x", range.begin.value, range.end.value)
          : absl::StrFormat("start < 0x%x && end > 0x%x", range.end.value, range.begin.value);
  if (ioctl(fd.get(), PERF_EVENT_IOC_SET_FILTER, filter.c_str()) != 0) {
    return absl::ErrnoToStatus(errno,
                               absl::StrFormat("filter '%s' of tracepoint %s", filter, name));
  }
  uint64_t id = 0;
  if (ioctl(fd.get(), PERF_EVENT_IOC_ID, &id) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("PERF_EVENT_IOC_ID of %s", name));
  }
  const int raw_fd = fd.get();
  events_.push_back({id, kind, std::move(fd)});
  return raw_fd;
}

absl::Status KvmTracepoints::OpenOn(int cpu, HvaRange range, const Options& options) {
  const size_t first = events_.size();
  const absl::StatusOr<int> unmap = OpenEvent(Kind::kUnmap, cpu, range, options.watermark_bytes);
  if (!unmap.ok()) return unmap.status();
  absl::StatusOr<PerfRing> unmaps = PerfRing::Map(*unmap, options.unmap_pages);
  if (!unmaps.ok()) return std::move(unmaps).status();
  unmap_rings_.push_back(*std::move(unmaps));
  fds_.push_back(*unmap);
  const auto ages_full = static_cast<uint32_t>(options.age_pages * kPageSize);
  const absl::StatusOr<int> age = OpenEvent(Kind::kAge, cpu, range, ages_full);
  if (!age.ok()) return age.status();
  absl::StatusOr<PerfRing> ages = PerfRing::Map(*age, options.age_pages);
  if (!ages.ok()) return std::move(ages).status();
  age_rings_.push_back(*std::move(ages));
  const absl::StatusOr<int> test_age = OpenEvent(Kind::kTestAge, cpu, range, ages_full);
  if (!test_age.ok()) return test_age.status();
  if (ioctl(*test_age, PERF_EVENT_IOC_SET_OUTPUT, *age) != 0) {
    return absl::ErrnoToStatus(errno, "PERF_EVENT_IOC_SET_OUTPUT of kvm/kvm_test_age_hva");
  }
  for (size_t i = first; i < events_.size(); ++i) {
    if (ioctl(events_[i].fd.get(), PERF_EVENT_IOC_ENABLE, 0) != 0) {
      return absl::ErrnoToStatus(errno, "PERF_EVENT_IOC_ENABLE of a kvm tracepoint");
    }
  }
  return absl::OkStatus();
}

void KvmTracepoints::Add(const PerfSample& sample, KernelBatch& batch) const {
  const auto event = std::find_if(events_.begin(), events_.end(),
                                  [&](const Event& e) { return e.id == sample.id; });
  if (event == events_.end()) return;
  const Layout& layout = layouts_[static_cast<size_t>(event->kind)];
  const std::optional<uint64_t> begin = layout.begin.In(sample.raw);
  const std::optional<uint64_t> end = layout.end.size != 0 ? layout.end.In(sample.raw)
                                      : begin.has_value()  ? std::optional(*begin + kPageSize)
                                                           : std::nullopt;
  if (!begin.has_value() || !end.has_value()) {
    batch.overrun = true;
    return;
  }
  batch.records.push_back({event->kind, {{*begin}, {*end}}, sample.time_ns, sample.tid});
}

void KvmTracepoints::Read(KernelBatch& batch) {
  const auto drain = [&](PerfRing& ring, bool matters) {
    const bool nearly_full = ring.NearlyFull() && !UNDERFOOT_MUTANT("full-ring-is-trusted");
    const bool sane = ring.Drain([&](uint32_t type, std::span<const std::byte> body) {
      if (type == PERF_RECORD_SAMPLE) {
        const std::optional<PerfSample> sample = ParsePerfSample(body);
        if (sample.has_value()) Add(*sample, batch);
        if (!sample.has_value() && matters) batch.overrun = true;
      } else if (type == PERF_RECORD_LOST && matters) {
        batch.lost += ParsePerfLost(body).value_or(1);
      }
    });
    if (matters && (nearly_full || !sane)) batch.overrun = true;
  };
  for (PerfRing& ring : unmap_rings_) drain(ring, true);
  for (PerfRing& ring : age_rings_) drain(ring, false);
  std::stable_sort(
      batch.records.begin(), batch.records.end(),
      [](const KernelRecord& a, const KernelRecord& b) { return a.time_ns < b.time_ns; });
}

}  // namespace underfoot
