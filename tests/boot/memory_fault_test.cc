// The host's memory fails a vCPU: the memory side is asked, and obeyed.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {
namespace {

// Since Linux 6.6; not in the headers that we build with.
struct UffdPoison {
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kUffdPoison = _IOWR(UFFDIO, 0x08, UffdPoison);
constexpr uint64_t kFeaturePoison = 1 << 14;

class MemoryFaults : public ::testing::Test {
 protected:
  void Make() {
    auto vmm = MinimalVmm::Create(
        {.workload = abi::Workload::kStamp, .max_rounds = 400, .final_pages = 64});
    ASSERT_TRUE(vmm.ok()) << vmm.status();
    vmm_ = *std::move(vmm);
  }

  int Protect(int protection) {
    const KvmMemslot slot = vmm_->slot(MinimalVmm::kPrecious);
    return mprotect(PointerOf(slot.hva), slot.bytes, protection);
  }

  std::unique_ptr<MinimalVmm> vmm_;
  std::atomic<int> asked_{0};
};

TEST_F(MemoryFaults, ThatTheMemorySideResolvesAreRetriedAndLoseNothing) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Make());
  vmm_->set_memory_fault_handler([&](const MemoryFault& fault) {
    EXPECT_EQ(fault.kind, MemoryFaultKind::kNoPage);
    // Retried once without a change: it is asked again.
    if (++asked_ == 2) {
      EXPECT_EQ(Protect(PROT_READ | PROT_WRITE), 0);
    }
    return MemoryFaultOutcome::kRetry;
  });
  ASSERT_EQ(Protect(PROT_NONE), 0);

  ASSERT_TRUE(vmm_->Start().ok());
  const absl::Status joined = vmm_->Join();

  EXPECT_TRUE(joined.ok()) << joined;
  EXPECT_EQ(vmm_->platform().exit_device().overall(), abi::Verdict::kGood);
  EXPECT_EQ(asked_.load(), 2);
  EXPECT_EQ(vmm_->vcpu(0).exits().memory_faults, 2u);
}

TEST_F(MemoryFaults, ThatItDoesNotResolveEndTheVcpuWithAnError) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Make());
  ASSERT_EQ(Protect(PROT_NONE), 0);

  ASSERT_TRUE(vmm_->Start().ok());
  const absl::Status joined = vmm_->Join();

  ASSERT_FALSE(joined.ok());
  EXPECT_NE(joined.message().find("EFAULT"), std::string::npos) << joined;
}

// Poisons the whole precious slot; false with the reason where this kernel cannot.
bool Poison(const KvmMemslot& slot, UniqueFd& uffd, std::string& reason) {
  uffd.Reset(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)));
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kFeaturePoison;
  if (!uffd.valid() || ioctl(uffd.get(), UFFDIO_API, &api) < 0) {
    reason = "this kernel has no UFFDIO_POISON (Linux 6.6)";
    return false;
  }
  uffdio_register range{};
  range.range = {.start = slot.hva.value, .len = slot.bytes};
  range.mode = UFFDIO_REGISTER_MODE_MISSING;
  UffdPoison poison{.range = range.range, .mode = 0, .updated = 0};
  if (ioctl(uffd.get(), UFFDIO_REGISTER, &range) < 0 ||
      ioctl(uffd.get(), kUffdPoison, &poison) < 0) {
    reason = "userfaultfd refuses to poison guest memory here";
    return false;
  }
  return true;
}

TEST_F(MemoryFaults, OfPoisonArriveWithTheirAddressInsteadOfKillingUs) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Make());
  const KvmMemslot slot = vmm_->slot(MinimalVmm::kPrecious);
  UniqueFd uffd;
  std::string reason;
  if (!Poison(slot, uffd, reason)) GTEST_SKIP() << reason;
  MemoryFault seen;
  vmm_->set_memory_fault_handler([&](const MemoryFault& fault) {
    seen = fault;
    return MemoryFaultOutcome::kFail;
  });

  ASSERT_TRUE(vmm_->Start().ok());
  const absl::Status joined = vmm_->Join();

  ASSERT_FALSE(joined.ok());
  EXPECT_NE(joined.message().find("hardware poison"), std::string::npos) << joined;
  EXPECT_EQ(seen.kind, MemoryFaultKind::kPoisoned);
  ASSERT_TRUE(seen.hva.has_value());
  EXPECT_GE(*seen.hva, slot.hva);
  EXPECT_LT(*seen.hva, slot.hva + slot.bytes);
}

}  // namespace
}  // namespace underfoot::testing
