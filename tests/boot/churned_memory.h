// The memory of a machine with KVM's memslots and no vCPU, and churn on it: a part of a fixture.

#ifndef UNDERFOOT_TESTS_BOOT_CHURNED_MEMORY_H_
#define UNDERFOOT_TESTS_BOOT_CHURNED_MEMORY_H_

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "vmm/audit/coverage.h"
#include "vmm/churn/operations.h"
#include "vmm/coherent/coherent_ram.h"
#include "vmm/kvm/kvm.h"

namespace underfoot::testing {

class ChurnedMemory {
 protected:
  static constexpr uint64_t kBytes = uint64_t{64} << 20;

  // `away` and `gate`: as of ChurnOperations. Skipped if this user may not have such memory.
  void CreateMemory(CoherentRamOptions options, MemoryAway away, KvmGate gate) {
    UNDERFOOT_NEEDS_KVM();
    const absl::StatusOr<Kvm> kvm = Kvm::Open();
    ASSERT_TRUE(kvm.ok()) << kvm.status();
    absl::StatusOr<Vm> vm = kvm->CreateVm();
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = std::make_unique<Vm>(*std::move(vm));
    options.bytes = kBytes;
    options.event_sink = &coverage_;
    absl::StatusOr<std::unique_ptr<CoherentRam>> ram = CoherentRam::Create(options);
    if (absl::IsPermissionDenied(ram.status())) UNDERFOOT_SKIP(std::string(ram.status().message()));
    ASSERT_TRUE(ram.ok()) << ram.status();
    ram_ = *std::move(ram);
    ASSERT_TRUE(ram_->Start().ok());
    for (const RamSlot& slot : ram_->memory().slots()) {
      ASSERT_TRUE(ram_->memory().AddSlot(slot, ram_->mmu(), *vm_).ok());
    }
    operations_ = std::make_unique<ChurnOperations>(ram_->memory(), ram_->mmu(), *vm_,
                                                    ram_->hooks(), ram_->uffd(), coverage_,
                                                    ram_->page_source(), std::move(gate), away);
  }

  Coverage coverage_;  // outlives the RAM, whose events it receives
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<CoherentRam> ram_;
  std::unique_ptr<ChurnOperations> operations_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_CHURNED_MEMORY_H_
