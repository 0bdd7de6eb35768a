// A source of kernel records that a test fills, and a notifier over it.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_
#define UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_

#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
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
      batch = std::exchange(records_.batch_, KernelBatch());
    }
    const std::vector<int>& fds() const override { return no_fds_; }

   private:
    FakeRecords& records_;
    const std::vector<int> no_fds_;
  };

  absl::Mutex mutex_;
  KernelBatch batch_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_MEMORY_FAKE_RECORDS_H_
