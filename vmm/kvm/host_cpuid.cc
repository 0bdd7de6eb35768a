#include "vmm/kvm/host_cpuid.h"

#include <sys/ioctl.h>

#include <cerrno>
#include <cstddef>

#include "vmm/base/start_thread.h"

namespace underfoot {
namespace {

using Header = uint32_t[2];
static_assert(offsetof(CpuidTable, entries) == sizeof(Header));
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Header);

}  // namespace

HostCpuid::HostCpuid(const Kvm& kvm) : kvm_(kvm) {
  // If the host has no room for the thread, the owner reads the table.
  if (!StartThread(reader_, "the CPUID of the host", [this] { Read(); }).ok()) Read();
}

HostCpuid::~HostCpuid() {
  if (reader_.joinable()) reader_.join();
}

absl::StatusOr<const CpuidTable*> HostCpuid::Get() {
  if (reader_.joinable()) reader_.join();
  if (!status_.ok()) return status_;
  return table_.get();
}

void HostCpuid::Read() {
  if (ioctl(kvm_.fd(), kGetSupportedCpuid, table_.get()) < 0) {
    status_ = absl::ErrnoToStatus(errno, "KVM_GET_SUPPORTED_CPUID");
  }
}

}  // namespace underfoot
