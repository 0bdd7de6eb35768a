// The smallest machine that runs the test guest: plain anonymous memory, a memslot for each range,
// MMIO on an absent slot carried out on the backing. No userfaultfd, no stage-2, no churn of its
// own: boot tests and benchmarks that need only /dev/kvm build on it.
//
//   [0, 16 MiB) system | precious, half of the rest | 1 shared page | discardable to the end
//
// Thread safety: Start and Join belong to one thread; the rest may be called from any.

#ifndef UNDERFOOT_TESTS_SUPPORT_MINIMAL_VMM_H_
#define UNDERFOOT_TESTS_SUPPORT_MINIMAL_VMM_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "guest/abi.h"
#include "mmu/base/types.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/guest_report.h"
#include "vmm/devices/platform.h"
#include "vmm/kvm/exits.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu_thread.h"

namespace underfoot::testing {

struct MinimalVmmOptions {
  uint64_t memory_bytes = uint64_t{48} << 20;
  // The host gives all memory before the guest starts. Otherwise the first write to a page that was
  // read before takes it from the page of zeroes: an invalidation that interrupts the other vCPUs,
  // which on a software CPU takes the longest of all that a guest does.
  bool populate = false;
  unsigned vcpus = 1;
  abi::Workload workload = abi::Workload::kMixed;
  uint64_t seed = 1;
  uint64_t max_rounds = 0;
  uint64_t max_pages = 0;
  uint64_t final_pages = 0;
};

class MinimalVmm : public ExitHandler {
 public:
  using MemoryFaultHandler = std::function<MemoryFaultOutcome(const MemoryFault&)>;

  enum Slot : uint32_t { kSystem = 0, kPrecious = 1, kShared = 2, kDiscardable = 3 };

  // Builds the machine; no vCPU runs yet.
  static absl::StatusOr<std::unique_ptr<MinimalVmm>> Create(const MinimalVmmOptions& options);
  MinimalVmm(const MinimalVmm&) = delete;
  MinimalVmm& operator=(const MinimalVmm&) = delete;
  ~MinimalVmm() override;

  // What a failing access of a vCPU to the host's memory means; before Start. By default it is
  // fatal.
  void set_memory_fault_handler(MemoryFaultHandler handler) {
    memory_fault_handler_ = std::move(handler);
  }

  [[nodiscard]] absl::Status Start();
  void RequestStop() { reports().RequestStop(); }
  // Of all vCPUs; the first error, if there is one.
  absl::Status Join();

  [[nodiscard]] absl::Status RemoveSlot(Slot slot);
  [[nodiscard]] absl::Status RestoreSlot(Slot slot);
  // Gpa and bytes of a slot, and where its memory lies here.
  KvmMemslot slot(Slot slot) const;
  Hva HvaOfGpa(Gpa gpa) const { return ram_ + gpa.value; }
  // A 64-bit word of guest memory, as the guest itself would access it.
  uint64_t ReadWord(Gpa gpa) const;
  void WriteWord(Gpa gpa, uint64_t value);

  abi::SharedPage& shared_page();
  GuestReports reports() const { return {ram_, options_.vcpus}; }
  const MinimalVmmOptions& options() const { return options_; }
  Platform& platform() { return platform_; }
  VcpuThread& vcpu(size_t index) { return *threads_[index]; }
  std::vector<std::string> lines() const ABSL_LOCKS_EXCLUDED(mutex_);
  uint64_t mmio_exits() const;

  ExitOutcome OnPortIo(unsigned vcpu, const PortIo& io) override;
  absl::Status OnMmio(unsigned vcpu, Gpa gpa, std::span<std::byte> data, bool write) override;
  ExitOutcome OnHalt(unsigned vcpu) override;
  MemoryFaultOutcome OnMemoryFault(unsigned vcpu, const MemoryFault& fault) override;
  void OnFatal(unsigned vcpu, const absl::Status& error) override;

 private:
  MinimalVmm(const MinimalVmmOptions& options, Vm vm, Hva ram);
  [[nodiscard]] absl::Status LoadGuest();
  [[nodiscard]] absl::Status AddVcpus(const Kvm& kvm);

  const MinimalVmmOptions options_;
  const Hva ram_;
  Vm vm_;
  Platform platform_;
  MemoryFaultHandler memory_fault_handler_ = [](const MemoryFault&) {
    return MemoryFaultOutcome::kFail;
  };
  Gpa entry_;
  std::vector<std::unique_ptr<VcpuThread>> threads_;

  mutable absl::Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

// Why no guest can run here; nullopt when one can.
std::optional<std::string> WhyNoKvm();

}  // namespace underfoot::testing

// First line of a test that needs /dev/kvm. Include tests/support/skip.h.
#define UNDERFOOT_NEEDS_KVM()                                                          \
  do {                                                                                 \
    if (const auto reason = ::underfoot::testing::WhyNoKvm()) UNDERFOOT_SKIP(*reason); \
  } while (false)

#endif  // UNDERFOOT_TESTS_SUPPORT_MINIMAL_VMM_H_
