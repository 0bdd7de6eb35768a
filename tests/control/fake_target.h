// A machine that is all numbers: every field of every answer holds a value of its own, so that a
// field that was mixed up with another shows.
//
// Thread safety: like ControlTarget.

#ifndef UNDERFOOT_TESTS_CONTROL_FAKE_TARGET_H_
#define UNDERFOOT_TESTS_CONTROL_FAKE_TARGET_H_

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/control/target.h"

namespace underfoot::testing {

// Fields count up from 101 in the order of the struct.
Stats SomeStats();
// A kind was seen, one was missed, the rest is idle.
CoverageMatrix SomeCoverage();

class FakeTarget : public ControlTarget {
 public:
  absl::StatusOr<Stats> GetStats() override;
  absl::StatusOr<std::vector<CacheInfo>> GetCaches() override;
  absl::StatusOr<std::vector<MemslotInfo>> GetMemslots() override;
  absl::StatusOr<Stage2Walk> GetStage2(Gfn gfn) override;
  absl::StatusOr<VmInfo> GetVm() override;
  absl::Status Pause() override;
  absl::Status Resume() override;
  absl::Status Quit() override;
  absl::StatusOr<WorkingSetInfo> GetWorkingSet(std::optional<absl::Duration> window) override;
  absl::StatusOr<DirtyInfo> GetDirty() override;
  // Pages 0, 1, 2, 63 and the second of the last word, until they are taken.
  absl::StatusOr<DirtyPages> TakeDirty() override;
  void GiveBackDirty(const DirtyPages& pages) override;
  absl::StatusOr<CoverageMatrix> GetCoverage() override;
  absl::StatusOr<AllDevices> GetDevices() override;
  absl::StatusOr<BalloonInfo> GetBalloon() override;
  absl::StatusOr<BalloonInfo> SetBalloon(uint64_t bytes) override;
  absl::StatusOr<HotplugStats> GetHotplug() override;
  absl::StatusOr<HotplugStats> SetHotplug(uint64_t bytes) override;
  uint64_t EventsEnd() override { return log_.end(); }
  // The frames of an event are its page number and, twice as high, those of an alias.
  std::vector<EventInfo> GetEvents(uint64_t first, size_t most) override;
  uint64_t events_asked() const { return events_asked_.Get(); }
  absl::StatusOr<ChurnState> GetChurn() override;
  absl::StatusOr<ChurnState> PutChurn(const ChurnRequest& request) override;

  // Every call fails with it from now on.
  void FailWith(absl::Status status);
  void SetBacking(Backing backing);
  // This many more pfn caches than the two it has.
  void AddCaches(size_t count);
  // GetStats waits while the gate is closed.
  void CloseGate();
  void OpenGate();
  bool SomebodyWaitsAtTheGate();
  // The number of pages that a take reports: 0x180, or this many.
  void SetDirtyPages(uint64_t pages);
  int dirty_takes();
  int dirty_given_back();
  // Something happened to a page of host memory.
  void HappenTo(uint64_t page, size_t times = 1);

  uint64_t stats_asked();
  VmState state();
  bool quit();

 private:
  EventLog log_;
  Counter events_asked_;
  absl::Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  VmState state_ ABSL_GUARDED_BY(mutex_) = VmState::kRunning;
  Backing backing_ ABSL_GUARDED_BY(mutex_) = Backing::kMemfd;
  ChurnState churn_ ABSL_GUARDED_BY(mutex_) = {
      .running = true, .seed = 7, .rates = {{ChurnKind::kDiscard, 100}}, .operations = {}};
  size_t more_caches_ ABSL_GUARDED_BY(mutex_) = 0;
  HotplugStats hotplug_ ABSL_GUARDED_BY(mutex_) = {uint64_t{1} << 30, 0, 4 << 20, 3, 1, 7, 4, 5, 6,
                                                   3'000'000};
  BalloonInfo balloon_ ABSL_GUARDED_BY(mutex_) = {
      {4096, 8192, 3, 1, 64, 2, 3'000'000},
      {1, 2'000'000, 5, 6, 7, 8, 16384, 65536, 32768, 4096, 9, 10}};
  bool quit_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t dirty_pages_ ABSL_GUARDED_BY(mutex_) = 0x180;
  bool dirty_there_ ABSL_GUARDED_BY(mutex_) = true;
  int dirty_takes_ ABSL_GUARDED_BY(mutex_) = 0;
  int dirty_given_back_ ABSL_GUARDED_BY(mutex_) = 0;
  bool gate_closed_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t stats_asked_ ABSL_GUARDED_BY(mutex_) = 0;
  int at_gate_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_CONTROL_FAKE_TARGET_H_
