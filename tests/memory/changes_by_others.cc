#include "tests/memory/changes_by_others.h"

#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "vmm/sources/kernel/kvm_tracepoints.h"

namespace underfoot::testing {
namespace {

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

std::unique_ptr<ChangesByOthers> ChangesByOthers::Start(MemorySide& side) {
  const absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return nullptr;
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return nullptr;
  std::unique_ptr<ChangesByOthers> changes(new ChangesByOthers(side, *std::move(vm)));
  if (!changes->notifier_.Start().ok() || !changes->notifier_.WaitUntilOpen().ok()) return nullptr;
  return changes;
}

ChangesByOthers::ChangesByOthers(MemorySide& side, Vm vm)
    : vm_(std::move(vm)),
      changes_(side.memory->hvas()),
      notifier_(side.mmu, side.own_changes, side.memory->hvas(),
                [&side]() -> absl::StatusOr<std::unique_ptr<KernelRecordSource>> {
                  auto all = KvmTracepoints::Open(side.memory->hvas());
                  if (!all.ok()) return std::move(all).status();
                  return std::make_unique<RecordsOfOthers>(*std::move(all));
                },
                {.foreign_changes = &changes_}) {}

}  // namespace underfoot::testing
