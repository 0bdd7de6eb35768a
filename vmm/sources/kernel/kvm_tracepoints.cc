#include "vmm/sources/kernel/kvm_tracepoints.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/evidence/host_event.h"

namespace underfoot {
namespace {

constexpr std::array<const char*, 3> kNames = {"kvm/kvm_unmap_hva_range", "kvm/kvm_age_hva",
                                               "kvm/kvm_test_age_hva"};

// Two readings of a clock that are this far apart differ, also of one that counts by ticks.
constexpr int64_t kClockStepNs = 20'000'000;

// For how long the event has counted; nullopt: the kernel does not report it.
std::optional<uint64_t> EnabledNs(int fd) {
  struct {
    uint64_t value;
    uint64_t enabled_ns;
  } counted;
  if (read(fd, &counted, sizeof(counted)) != sizeof(counted)) return std::nullopt;
  return counted.enabled_ns;
}

bool Enable(int fd, bool on) {
  return ioctl(fd, on ? PERF_EVENT_IOC_ENABLE : PERF_EVENT_IOC_DISABLE, 0) == 0;
}

absl::Status OpenError(int error, const char* name) {
  const bool refused = error == EACCES || error == EPERM;
  return ErrnoStatus(error, absl::StrFormat("perf_event_open of %s", name),
                     refused ? "run as root or with CAP_PERFMON, or sysctl "
                               "kernel.perf_event_paranoid=-1"
                             : "use a kernel with CONFIG_PERF_EVENTS and CONFIG_EVENT_TRACING");
}

}  // namespace

int OpenPerfEvent(const perf_event_attr& attr, int cpu) {
  return static_cast<int>(syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC));
}

int64_t MonotonicOffsetNs(const std::string& timens_offsets) {
  std::ifstream file(timens_offsets);
  int64_t seconds = 0;
  int64_t nanoseconds = 0;
  for (std::string clock; file >> clock >> seconds >> nanoseconds;) {
    if (clock == "monotonic") return seconds * 1'000'000'000 + nanoseconds;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<KvmTracepoints>> KvmTracepoints::Open(HvaRange range) {
  return Open(range, Options());
}

absl::StatusOr<std::unique_ptr<KvmTracepoints>> KvmTracepoints::Open(HvaRange range,
                                                                     const Options& options) {
  std::unique_ptr<KvmTracepoints> source(new KvmTracepoints(range, options));
  if (absl::Status described = source->Describe(); !described.ok()) return described;
  source->clock_offset_ns_ = MonotonicOffsetNs(options.timens_offsets);
  for (int number = 0;; ++number) {
    absl::StatusOr<std::unique_ptr<Watched>> cpu = source->Watch(number);
    if (absl::IsOutOfRange(cpu.status())) break;
    if (!cpu.ok()) return std::move(cpu).status();
    source->cpus_.push_back(*std::move(cpu));
  }
  source->NoteFds();
  source->last_look_ns_ = MonotonicNs();
  source->next_look_ns_ = source->last_look_ns_ + options.look_period.count();
  return source;
}

absl::Status KvmTracepoints::Describe() {
  const absl::StatusOr<Tracefs> tracefs = Tracefs::Open(options_.mountinfo);
  if (!tracefs.ok()) return tracefs.status();
  for (const Kind kind : {Kind::kUnmap, Kind::kAge, Kind::kTestAge}) {
    absl::StatusOr<TraceEvent> event = tracefs->ReadEvent(kNames[static_cast<size_t>(kind)]);
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

absl::StatusOr<KvmTracepoints::Event> KvmTracepoints::OpenEvent(Kind kind, int cpu,
                                                                uint32_t watermark) const {
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
  attr.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED;
  UniqueFd fd(options_.open_event(attr, cpu));
  if (!fd.valid() && errno == ENODEV) return absl::NotFoundError("the CPU is offline");
  if (!fd.valid() && errno == EINVAL && cpu > 0) return absl::OutOfRangeError("no such CPU");
  if (!fd.valid()) return OpenError(errno, name);
  const std::string filter =
      kind == Kind::kTestAge
          ? absl::StrFormat("hva >= 0x%x && hva < 0x%x", range_.begin.value, range_.end.value)
          : absl::StrFormat("start < 0x%x && end > 0x%x", range_.end.value, range_.begin.value);
  if (ioctl(fd.get(), PERF_EVENT_IOC_SET_FILTER, filter.c_str()) != 0) {
    return absl::ErrnoToStatus(errno,
                               absl::StrFormat("filter '%s' of tracepoint %s", filter, name));
  }
  uint64_t id = 0;
  if (ioctl(fd.get(), PERF_EVENT_IOC_ID, &id) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("PERF_EVENT_IOC_ID of %s", name));
  }
  return Event{id, kind, std::move(fd)};
}

absl::StatusOr<std::unique_ptr<KvmTracepoints::Watched>> KvmTracepoints::Watch(int cpu) const {
  const auto ages_half = static_cast<uint32_t>(options_.age_pages * kPageSize / 2);
  auto watched = std::make_unique<Watched>();
  for (const Kind kind : {Kind::kUnmap, Kind::kAge, Kind::kTestAge}) {
    const uint32_t watermark = kind == Kind::kUnmap ? options_.watermark_bytes : ages_half;
    absl::StatusOr<Event> event = OpenEvent(kind, cpu, watermark);
    if (absl::IsNotFound(event.status())) return nullptr;
    if (!event.ok()) return std::move(event).status();
    watched->events.push_back(*std::move(event));
  }
  absl::StatusOr<PerfRing> unmaps =
      PerfRing::Map(watched->FdOf(Kind::kUnmap), options_.unmap_pages);
  if (!unmaps.ok()) return std::move(unmaps).status();
  watched->unmaps.emplace(*std::move(unmaps));
  absl::StatusOr<PerfRing> ages = PerfRing::Map(watched->FdOf(Kind::kAge), options_.age_pages);
  if (!ages.ok()) return std::move(ages).status();
  watched->ages.emplace(*std::move(ages));
  if (ioctl(watched->FdOf(Kind::kTestAge), PERF_EVENT_IOC_SET_OUTPUT, watched->FdOf(Kind::kAge)) !=
      0) {
    return absl::ErrnoToStatus(errno, "PERF_EVENT_IOC_SET_OUTPUT of kvm/kvm_test_age_hva");
  }
  // Without a waker the reader looks at its own times: a host with little room for descriptors has the records.
  if (absl::StatusOr<Event> waker = OpenEvent(Kind::kUnmap, cpu, 1); waker.ok()) {
    absl::StatusOr<PerfRing> wakes = PerfRing::Map(waker->fd.get(), 1);
    if (wakes.ok()) {
      watched->waker = *std::move(waker);
      watched->wakes.emplace(*std::move(wakes));
    }
  }
  for (const Event& event : watched->events) {
    if (!Enable(event.fd.get(), true)) {
      return absl::ErrnoToStatus(errno, "PERF_EVENT_IOC_ENABLE of a kvm tracepoint");
    }
  }
  return watched;
}

void KvmTracepoints::NoteFds() {
  fds_.clear();
  for (const std::unique_ptr<Watched>& cpu : cpus_) {
    if (cpu == nullptr) continue;
    fds_.push_back(cpu->FdOf(Kind::kUnmap));
    fds_.push_back(cpu->FdOf(Kind::kAge));
    if (cpu->waker.fd.valid()) fds_.push_back(cpu->waker.fd.get());
  }
}

size_t KvmTracepoints::cpus_watched() const {
  return static_cast<size_t>(
      std::count_if(cpus_.begin(), cpus_.end(),
                    [](const std::unique_ptr<Watched>& cpu) { return cpu != nullptr; }));
}

// The waker of a CPU that comes online meanwhile is off. Such a CPU sets `overrun`, which is no time without
// records.
bool KvmTracepoints::WakeAtOnce(bool on) {
  bool done = true;
  for (const std::unique_ptr<Watched>& cpu : cpus_) {
    if (cpu != nullptr && !(cpu->waker.fd.valid() && Enable(cpu->waker.fd.get(), on))) done = false;
  }
  if (on && !done) static_cast<void>(WakeAtOnce(false));
  return done;
}

// The kernel takes the events from a CPU that goes offline and does not give them back when it
// comes: their time stands still from then on.
void KvmTracepoints::LookAtCpus(KernelBatch& batch) {
  const int64_t now = MonotonicNs();
  next_look_ns_ = now + options_.look_period.count();
  const bool time_has_passed = now - last_look_ns_ >= kClockStepNs;
  if (time_has_passed) last_look_ns_ = now;
  for (size_t number = 0; number < cpus_.size(); ++number) {
    std::unique_ptr<Watched>& cpu = cpus_[number];
    if (cpu != nullptr && time_has_passed) {
      const uint64_t enabled_ns = EnabledNs(cpu->FdOf(Kind::kUnmap)).value_or(cpu->enabled_ns);
      const bool stands_still = enabled_ns == cpu->enabled_ns;
      cpu->enabled_ns = enabled_ns;
      if (stands_still) {
        Drain(*cpu, batch);
        cpu.reset();
        batch.overrun = true;
      }
    }
    if (cpu != nullptr) continue;
    absl::StatusOr<std::unique_ptr<Watched>> opened = Watch(static_cast<int>(number));
    const bool offline = opened.ok() && *opened == nullptr;
    if (opened.ok()) cpu = *std::move(opened);
    // Its records of the time before its events were open are lost, and so are all if they cannot
    // be opened.
    if (!offline) batch.overrun = true;
  }
  NoteFds();
}

void KvmTracepoints::Add(const Watched& cpu, const PerfSample& sample, KernelBatch& batch) const {
  const auto event = std::find_if(cpu.events.begin(), cpu.events.end(),
                                  [&](const Event& e) { return e.id == sample.id; });
  if (event == cpu.events.end()) return;
  const Layout& layout = layouts_[static_cast<size_t>(event->kind)];
  const std::optional<uint64_t> begin = layout.begin.In(sample.raw);
  const std::optional<uint64_t> end = layout.end.size != 0 ? layout.end.In(sample.raw)
                                      : begin.has_value()  ? std::optional(*begin + kPageSize)
                                                           : std::nullopt;
  if (!begin.has_value() || !end.has_value()) {
    batch.overrun = true;
    return;
  }
  batch.records.push_back(
      {event->kind, {{*begin}, {*end}}, sample.time_ns + clock_offset_ns_, sample.tid});
}

void KvmTracepoints::Drain(Watched& cpu, KernelBatch& batch) const {
  const auto drain = [&](PerfRing& ring, bool matters) {
    const bool nearly_full = ring.NearlyFull();
    const bool sane = ring.Drain([&](uint32_t type, std::span<const std::byte> body) {
      if (type == PERF_RECORD_SAMPLE) {
        const std::optional<PerfSample> sample = ParsePerfSample(body);
        if (sample.has_value()) Add(cpu, *sample, batch);
        if (!sample.has_value() && matters) batch.overrun = true;
      } else if (type == PERF_RECORD_LOST && matters) {
        batch.lost += ParsePerfLost(body).value_or(1);
      }
    });
    if (matters && (nearly_full || !sane)) batch.overrun = true;
  };
  drain(*cpu.unmaps, true);
  drain(*cpu.ages, false);
  if (!cpu.wakes.has_value()) return;
  static_cast<void>(cpu.wakes->Drain([](uint32_t, std::span<const std::byte>) {}));
}

void KvmTracepoints::Read(KernelBatch& batch) {
  if (MonotonicNs() >= next_look_ns_) LookAtCpus(batch);
  for (const std::unique_ptr<Watched>& cpu : cpus_) {
    if (cpu != nullptr) Drain(*cpu, batch);
  }
  std::stable_sort(
      batch.records.begin(), batch.records.end(),
      [](const KernelRecord& a, const KernelRecord& b) { return a.time_ns < b.time_ns; });
}

}  // namespace underfoot
