#include "tests/control/fake_target.h"

#include "absl/strings/str_format.h"

namespace underfoot::testing {

Stats SomeStats() {
  Stats s;
  s.vm = {"vm-1", 102, 103, VmState::kRunning, 105, "kvm_test"};
  s.guest = {"stamp", 108, 109, GuestVerdict::kGood};
  s.pfn_caches = {111, 112, 113, 114, 115, 116, 117, 118, 119, 159};
  s.stage2 = {120, 121, 122, 123, 124, 125, 126, 158};
  s.notifier = {127, 128, 129, 131};
  s.memslots = {132, 133, 134, 135};
  s.rcu = {136, 137, 138, 139, 140, 157, 399};
  LatencyHistogram latency;
  for (const unsigned us : {1U, 3U, 3U, 100U}) latency.Record(us);
  // clang-format off
  s.uffd = {2, {2, {196, 197}}, 141, 142, 143, 178, 250, 251, 144, 145, 146, 147, 195,
            148, 198, 199, 214, 215, 149, 150, 183, 190, latency.Snapshot()};
  // clang-format on
  s.churn = {151, true, {{ChurnKind::kDiscard, 153}, {ChurnKind::kForeign, 154}}};
  LatencyHistogram lag;
  lag.Record(2);
  s.kernel = {true,
              "",
              159,
              160,
              161,
              162,
              163,
              164,
              165,
              166,
              {184, 185, 186, 187, 188, 189, 190, 191},
              lag.Snapshot()};
  s.audit = {155, 167, 168, 169, 170, 156, 171, 172, 173, 174, 175, 176, 177};
  s.working_set = {true, 178, 179, 180, 181, 182};
  s.devices = {200, 201, 202, 203, 204, 205, 206, 207, 230,
               231, 232, 208, 209, 210, 211, 212, 233, 213};
  s.balloon = {240, 241, 242, 243, 244, 245, 246};
  s.guest_memory = {270, 271, 272, 273, 274, 275, 276, 277, 278, 279, 280, 281};
  s.hotplug = {290, 291, 292, 293, 294, 299, 295, 296, 297, 298};
  s.event_pages = {250, {2, {251, 252}}, {2, {253, 254}}, {2, {255, 256}}, {2, {257, 258}}, 259,
                   260};
  s.dirty_log = {true, "bitmap", 214, 215, 216, 217, 218, 219,
                 220,  221,      222, 223, 224, 225, 226, 227};
  return s;
}

CoverageMatrix SomeCoverage() {
  CoverageMatrix matrix;
  matrix.sources = {true, true, false};
  matrix.others = {1, 2, 3};
  for (const ChurnKindInfo& info : kChurnKinds) {
    CoverageRow row;
    row.kind = info.kind;
    for (size_t i = 0; i < kEventSources; ++i) row.cells[i].duty = info.duties[i];
    matrix.rows.push_back(row);
  }
  LatencyHistogram lag;
  lag.Record(3);
  matrix.rows[0].operations = 4;
  matrix.rows[0].cells[0].events = 5;
  matrix.rows[0].cells[0].lag_us = lag.Snapshot();
  matrix.rows[0].result = CoverageResult::kSeen;
  matrix.rows[1].operations = 6;
  matrix.rows[1].result = CoverageResult::kMissed;
  return matrix;
}

// The window asked for is what it covers; absent: a second.
absl::StatusOr<WorkingSetInfo> FakeTarget::GetWorkingSet(std::optional<absl::Duration> window) {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  WorkingSetInfo info;
  info.sees_reads = backing_ == Backing::kMemfd;
  info.period_us = 500000;
  info.scans = 2;
  info.covered_us =
      static_cast<uint64_t>(absl::ToInt64Microseconds(window.value_or(absl::Seconds(1))));
  info.slots = {{0, {Gfn{0}, Gfn{0x100}}, std::nullopt}, {1, {Gfn{0x100}, Gfn{0x180}}, 32}};
  return info;
}

absl::StatusOr<DirtyInfo> FakeTarget::GetDirty() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return DirtyInfo{.period_us = 50000,
                   .collections = 7,
                   .age_us = 20000,
                   .slots = {{0, {Gfn{0}, Gfn{0x100}}, 3, 5}, {1, {Gfn{0x100}, Gfn{0x180}}, 8, 9}}};
}

absl::StatusOr<DirtyPages> FakeTarget::TakeDirty() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  DirtyPages taken{.collections = 7, .pages = dirty_pages_, .words = {}};
  taken.words.resize((dirty_pages_ + 63) / 64);
  if (dirty_there_) taken.words[0] = 0x8000'0000'0000'0007;
  if (dirty_there_) taken.words.back() |= 2;
  dirty_there_ = false;
  ++dirty_takes_;
  return taken;
}

void FakeTarget::GiveBackDirty(const DirtyPages& pages) {
  const absl::MutexLock lock(&mutex_);
  ++dirty_given_back_;
  dirty_there_ = dirty_there_ || pages.words[0] != 0;
}

void FakeTarget::SetDirtyPages(uint64_t pages) {
  const absl::MutexLock lock(&mutex_);
  dirty_pages_ = pages;
}

int FakeTarget::dirty_takes() {
  const absl::MutexLock lock(&mutex_);
  return dirty_takes_;
}

int FakeTarget::dirty_given_back() {
  const absl::MutexLock lock(&mutex_);
  return dirty_given_back_;
}

absl::StatusOr<CoverageMatrix> FakeTarget::GetCoverage() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return SomeCoverage();
}

absl::StatusOr<AllDevices> FakeTarget::GetDevices() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return AllDevices{{{"blk",
                      2,
                      Gpa{0x7fc0000000},
                      15,
                      1,
                      2,
                      "read at byte 512 of the disk: Input/output error",
                      {{"blk-0", true, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 10, 11, 12, 13, 14, 18},
                       {.name = "blk-1"}}}},
                    {{"vm", Gpa{0x103c000}, true, 20, 21, 22, 23, 24}, {.name = "vcpu-0"}}};
}

// The guest reports when it is asked.
absl::StatusOr<BalloonInfo> FakeTarget::GetBalloon() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  BalloonInfo before = balloon_;
  ++balloon_.guest.reports;
  balloon_.guest.age_us = 20'000;
  return before;
}

absl::StatusOr<BalloonInfo> FakeTarget::SetBalloon(uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  if (bytes > uint64_t{1} << 30) return absl::InvalidArgumentError("a balloon of more than 1 GiB");
  balloon_.balloon.target_bytes = bytes;
  return balloon_;
}

absl::StatusOr<HotplugStats> FakeTarget::GetHotplug() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return hotplug_;
}

absl::StatusOr<HotplugStats> FakeTarget::SetHotplug(uint64_t bytes) {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  if (bytes > hotplug_.region_bytes) return absl::InvalidArgumentError("more than the region");
  hotplug_.requested_bytes = bytes;
  return hotplug_;
}

void FakeTarget::HappenTo(uint64_t page, size_t times) {
  HostEvent event;
  event.source = EventSource::kKernel;
  event.change = HostChange::kUnmap;
  event.range = PageRangeOf(Hva{page << kPageShift});
  event.happened_ns = 1'000'000;
  event.taken_ns = 1'024'000;
  event.tid = 17;
  event.task = {'k', 's', 'm', 'd'};
  event.cause = HostCause::kKsm;
  event.invalidated = true;
  for (; times > 0; --times) log_.Report(event);
}

std::vector<EventInfo> FakeTarget::GetEvents(uint64_t first, size_t most) {
  events_asked_.Add();
  std::vector<EventInfo> infos;
  for (const NumberedEvent& event : log_.Since(first, most)) {
    const uint64_t page = event.event.range.begin.value >> kPageShift;
    infos.push_back({event, {{Gfn{page}, Gfn{page + 1}}, {Gfn{2 * page}, Gfn{2 * page + 1}}}});
  }
  return infos;
}

absl::StatusOr<Stats> FakeTarget::GetStats() {
  const absl::MutexLock lock(&mutex_);
  ++stats_asked_;
  ++at_gate_;
  mutex_.Await(absl::Condition(
      +[](bool* closed) { return !*closed; }, &gate_closed_));
  --at_gate_;
  if (!failure_.ok()) return failure_;
  Stats stats = SomeStats();
  stats.vm.state = state_;
  return stats;
}

absl::StatusOr<std::vector<CacheInfo>> FakeTarget::GetCaches() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  std::vector<CacheInfo> caches = {
      {"vring", CacheKey::kGpa, 0x1000, 4096, CacheState::kValid, Hva{0x7f0000001000}, Pfn{77}, 5,
       6},
      {"shared", CacheKey::kHva, 0x7f0000002000, 8, CacheState::kInvalid, {}, {}, 7, 8}};
  for (size_t i = 0; i < more_caches_; ++i) caches.push_back(caches.front());
  return caches;
}

absl::StatusOr<std::vector<MemslotInfo>> FakeTarget::GetMemslots() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return std::vector<MemslotInfo>{{0, {Gfn{0}, Gfn{0x100}}, Hva{0x7f0000000000}, 0, 3},
                                  {1, {Gfn{0x100}, Gfn{0x180}}, Hva{0x7f0000100000}, 3, 4}};
}

absl::StatusOr<Stage2Walk> FakeTarget::GetStage2(Gfn gfn) {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  if (gfn.value >= 0x180) {
    return absl::NotFoundError(absl::StrFormat("gfn 0x%x is in no memslot", gfn.value));
  }
  Stage2Walk walk;
  walk.gfn = gfn;
  walk.steps = {{3, Stage2EntryKind::kTable, 0x1003}, {2, Stage2EntryKind::kTable, 0x2003}};
  if (gfn.value % 2 == 1) {
    walk.steps.push_back({1, Stage2EntryKind::kHole, 0});
    walk.reason = "never faulted in";
    return walk;
  }
  walk.steps.push_back({1, Stage2EntryKind::kLeaf, 0x4d003});
  walk.leaf = {Pfn{77}, 1, Access::kWrite, true, false, Hva{0x7f0000000000 + gfn.value * 4096}};
  return walk;
}

absl::StatusOr<VmInfo> FakeTarget::GetVm() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  VmInfo info;
  info.name = "vm-1";
  info.pid = 4711;
  info.state = state_;
  info.vcpus = 2;
  info.memory_bytes = uint64_t{256} << 20;
  info.churn_limits.backing = backing_;
  info.guest = "stamp";
  info.kvm_vendor = "kvm_test";
  info.uptime_us = 5;
  info.real_pfns = true;
  return info;
}

absl::Status FakeTarget::Pause() {
  const absl::MutexLock lock(&mutex_);
  if (failure_.ok()) state_ = VmState::kPaused;
  return failure_;
}

absl::Status FakeTarget::Resume() {
  const absl::MutexLock lock(&mutex_);
  if (failure_.ok()) state_ = VmState::kRunning;
  return failure_;
}

absl::Status FakeTarget::Quit() {
  const absl::MutexLock lock(&mutex_);
  if (failure_.ok()) quit_ = true;
  return failure_;
}

absl::StatusOr<ChurnState> FakeTarget::GetChurn() {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  return churn_;
}

absl::StatusOr<ChurnState> FakeTarget::PutChurn(const ChurnRequest& request) {
  const absl::MutexLock lock(&mutex_);
  if (!failure_.ok()) return failure_;
  churn_.running = request.running.value_or(churn_.running);
  churn_.seed = request.seed.value_or(churn_.seed);
  churn_.rates = request.rates.value_or(churn_.rates);
  return churn_;
}

void FakeTarget::FailWith(absl::Status status) {
  const absl::MutexLock lock(&mutex_);
  failure_ = std::move(status);
}

void FakeTarget::SetBacking(Backing backing) {
  const absl::MutexLock lock(&mutex_);
  backing_ = backing;
}

void FakeTarget::AddCaches(size_t count) {
  const absl::MutexLock lock(&mutex_);
  more_caches_ += count;
}

void FakeTarget::CloseGate() {
  const absl::MutexLock lock(&mutex_);
  gate_closed_ = true;
}

void FakeTarget::OpenGate() {
  const absl::MutexLock lock(&mutex_);
  gate_closed_ = false;
}

bool FakeTarget::SomebodyWaitsAtTheGate() {
  const absl::MutexLock lock(&mutex_);
  return at_gate_ > 0;
}

uint64_t FakeTarget::stats_asked() {
  const absl::MutexLock lock(&mutex_);
  return stats_asked_;
}

VmState FakeTarget::state() {
  const absl::MutexLock lock(&mutex_);
  return state_;
}

bool FakeTarget::quit() {
  const absl::MutexLock lock(&mutex_);
  return quit_;
}

}  // namespace underfoot::testing
