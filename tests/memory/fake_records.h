// A source of kernel records that a test fills, and a notifier over it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_
#define UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_

#include <sys/eventfd.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "vmm/base/unique_fd.h"
#include "vmm/evidence/host_event.h"
#include "vmm/sources/kernel/kernel_notifier.h"

namespace underfoot::testing {

// No thread of this process has this number.
inline constexpr int32_t kForeignTid = 0x7ffffff0;

class FakeRecords {
 public:
  void Add(HvaRange range, int32_t tid = kForeignTid, int64_t time_ns = MonotonicNs(),
           KernelRecord::Kind kind = KernelRecord::Kind::kUnmap) {
    absl::MutexLock lock(&mutex_);
    batch_.records.push_back({kind, range, time_ns, tid});
    if (wakes_at_once_) static_cast<void>(eventfd_write(wake_.get(), 1));
  }
  // Whether a record wakes the notifier now.
  bool wakes_at_once() {
    absl::MutexLock lock(&mutex_);
    return wakes_at_once_;
  }
  // Written just before the notifier asks to be woken, so this record does not wake it.
  void AddBeforeTheNextWait(HvaRange range) {
    absl::MutexLock lock(&mutex_);
    before_the_wait_ = range;
  }
  void Lose(uint64_t count) {
    absl::MutexLock lock(&mutex_);
    batch_.lost += count;
  }
  void Overrun() {
    absl::MutexLock lock(&mutex_);
    batch_.overrun = true;
  }

  KernelNotifier::Open Opener() {
    return [this]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
      return std::make_unique<Source>(*this);
    };
  }

 private:
  class Source final : public KernelRecordSource {
   public:
    explicit Source(FakeRecords& records) : records_(records) {}
    void Read(KernelBatch& batch) override {
      absl::MutexLock lock(&records_.mutex_);
      eventfd_t ignored = 0;
      static_cast<void>(eventfd_read(records_.wake_.get(), &ignored));
      batch = std::exchange(records_.batch_, KernelBatch());
    }
    bool WakeAtOnce(bool on) override {
      absl::MutexLock lock(&records_.mutex_);
      const HvaRange before = std::exchange(records_.before_the_wait_, HvaRange());
      if (on && !before.empty()) {
        records_.batch_.records.push_back(
            {KernelRecord::Kind::kUnmap, before, MonotonicNs(), kForeignTid});
      }
      records_.wakes_at_once_ = on;
      return true;
    }
    const std::vector<int>& fds() const override { return fds_; }

   private:
    FakeRecords& records_;
    const std::vector<int> fds_{records_.wake_.get()};
  };

  absl::Mutex mutex_;
  KernelBatch batch_ ABSL_GUARDED_BY(mutex_);
  bool wakes_at_once_ ABSL_GUARDED_BY(mutex_) = false;
  HvaRange before_the_wait_ ABSL_GUARDED_BY(mutex_);
  const UniqueFd wake_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_
