#include "tests/memory/host_witness.h"

#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "vmm/memory/kvm_tracepoints.h"

namespace underfoot::testing {
namespace {

constexpr int64_t kLatelyNs = 2'000'000'000;

class RecordsOfOthers final : public KernelRecordSource {
 public:
  explicit RecordsOfOthers(std::unique_ptr<KernelRecordSource> all) : all_(std::move(all)) {}

  void Read(KernelBatch& batch) override {
    all_->Read(batch);
    std::erase_if(batch.records, [this](const KernelRecord& record) {
      return record.kind != KernelRecord::Kind::kUnmap || IsOurs(record.tid);
    });
  }
  const std::vector<int>& fds() const override { return all_->fds(); }

 private:
  bool IsOurs(int32_t tid) {
    const auto [known, is_new] = ours_.try_emplace(tid, false);
    if (is_new) {
      known->second = access(("/proc/self/task/" + std::to_string(tid)).c_str(), F_OK) == 0;
    }
    return known->second;
  }

  std::unique_ptr<KernelRecordSource> all_;
  std::map<int32_t, bool> ours_;
};

}  // namespace

std::unique_ptr<HostWitness> HostWitness::Start(MemorySide& side) {
  const absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return nullptr;
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return nullptr;
  std::unique_ptr<HostWitness> witness(new HostWitness(side, *std::move(vm)));
  if (!witness->notifier_.Start().ok() || !witness->notifier_.WaitUntilOpen().ok()) return nullptr;
  return witness;
}

HostWitness::HostWitness(MemorySide& side, Vm vm)
    : vm_(std::move(vm)),
      log_(side.events),
      notifier_(side.mmu, side.events, side.memory->hvas(),
                [&side]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
                  auto all = KvmTracepoints::Open(side.memory->hvas());
                  if (!all.ok()) return std::move(all).status();
                  return std::make_unique<RecordsOfOthers>(*std::move(all));
                }) {}

bool HostWitness::Took(HvaRange range) {
  if (!notifier_.Drain()) return false;
  const int64_t since = MonotonicNs() - kLatelyNs;
  for (const NumberedEvent& numbered : log_.Since(0, EventLog::kCapacity)) {
    const HostEvent& event = numbered.event;
    if (event.source == EventSource::kKernel && event.taken_ns >= since &&
        event.range.Overlaps(range)) {
      return true;
    }
  }
  return false;
}

}  // namespace underfoot::testing
