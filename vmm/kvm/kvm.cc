#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"

namespace underfoot {
namespace {

int RetryIoctl(int fd, unsigned long request, unsigned long argument) {
  int result;
  do {
    result = ioctl(fd, request, argument);
  } while (result < 0 && errno == EINTR);
  return result;
}

absl::Status OpenError(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return absl::FailedPreconditionError(absl::StrCat(
          "no KVM at ", path,
          ": load the module of this CPU (modprobe kvm_intel or kvm_amd); inside a virtual "
          "machine, enable nested virtualization on its host"));
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(absl::StrCat(
          "cannot open ", path, " for reading and writing: run as root or join its group (kvm)"));
    default:
      return ErrnoStatus(error, absl::StrCat("open ", path));
  }
}

// As the kernel counts them: compiled as C++, the flexible array at the end of kvm_irq_routing makes
// the struct larger, which changes even the number of the ioctl.
using RoutingHeader = uint32_t[2];
constexpr size_t kRoutingHeaderBytes = sizeof(RoutingHeader);
constexpr unsigned long kSetGsiRouting = _IOW(KVMIO, 0x6a, RoutingHeader);

std::string Describe(const KvmMemslot& slot) {
  return absl::StrFormat("slot %u, gpa %#x, %#x bytes, hva %#x%s%s", slot.id, slot.gpa.value,
                         slot.bytes, slot.hva.value, slot.read_only ? ", read-only" : "",
                         slot.log_dirty ? ", dirty log" : "");
}

const char* MemslotRemedy(int error) {
  switch (error) {
    case EEXIST:
      return ": it overlaps another memslot; delete that one first";
    case EINVAL:
      return ": addresses and size must be whole pages, and a slot that exists keeps its size and "
             "hva (delete it, then add it)";
    case ENOMEM:
      return ": the host has no memory left for the slot's tables";
    default:
      return "";
  }
}

}  // namespace

// Without the capability only the speed differs, so a refusal is no error.
Vm::Vm(UniqueFd fd) : fd_(std::move(fd)) {
  const int offered = RetryIoctl(fd_.get(), KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  if (offered <= 0 || (offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) == 0) return;
  kvm_enable_cap enable{};
  enable.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2;
  enable.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
  clears_dirty_log_apart_ = RetryIoctl(fd_.get(), KVM_ENABLE_CAP, HvaOf(&enable).value) == 0;
}

absl::Status Vm::SetMemslot(const KvmMemslot& slot) {
  if (slot.bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("KVM_SET_USER_MEMORY_REGION (", Describe(slot),
                     "): a size of 0 deletes a slot, and that is DeleteMemslot"));
  }
  kvm_userspace_memory_region region{};
  region.slot = slot.id;
  region.flags =
      (slot.read_only ? KVM_MEM_READONLY : 0u) | (slot.log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0u);
  region.guest_phys_addr = slot.gpa.value;
  region.memory_size = slot.bytes;
  region.userspace_addr = slot.hva.value;
  if (RetryIoctl(fd(), KVM_SET_USER_MEMORY_REGION, HvaOf(&region).value) < 0) {
    const int error = errno;
    return absl::ErrnoToStatus(error, absl::StrCat("KVM_SET_USER_MEMORY_REGION (", Describe(slot),
                                                   ")", MemslotRemedy(error)));
  }
  return absl::OkStatus();
}

absl::Status Vm::DeleteMemslot(uint32_t id) {
  kvm_userspace_memory_region region{};
  region.slot = id;
  if (RetryIoctl(fd(), KVM_SET_USER_MEMORY_REGION, HvaOf(&region).value) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("KVM_SET_USER_MEMORY_REGION (delete slot %u): is it there?", id));
  }
  return absl::OkStatus();
}

absl::Status Vm::AddIoeventfd(Gpa gpa, uint32_t value, int eventfd) {
  kvm_ioeventfd request{};
  request.datamatch = value;
  request.addr = gpa.value;
  request.len = sizeof(value);
  request.fd = eventfd;
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  if (RetryIoctl(fd(), KVM_IOEVENTFD, HvaOf(&request).value) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("KVM_IOEVENTFD (gpa %#x, value %d)", gpa.value, value));
  }
  return absl::OkStatus();
}

absl::Status Vm::CreateInterruptControllers(Gpa reserved, unsigned pins) {
  // Intel's processors without unrestricted guests run real mode by these pages.
  const uint64_t identity_map = reserved.value;
  if (RetryIoctl(fd(), KVM_SET_IDENTITY_MAP_ADDR, HvaOf(&identity_map).value) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("KVM_SET_IDENTITY_MAP_ADDR (gpa %#x)", identity_map));
  }
  const Gpa tss = reserved + kPageSize;
  if (RetryIoctl(fd(), KVM_SET_TSS_ADDR, tss.value) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("KVM_SET_TSS_ADDR (gpa %#x)", tss.value));
  }
  if (RetryIoctl(fd(), KVM_CREATE_IRQCHIP, 0) < 0) {
    return absl::ErrnoToStatus(
        errno, "KVM_CREATE_IRQCHIP: was a vCPU created before, or does this KVM have none?");
  }
  // The kernel's own routes lead to two 8259 as well, which a hardware-reduced guest never masks.
  std::vector<std::byte> table(kRoutingHeaderBytes + pins * sizeof(kvm_irq_routing_entry));
  const RoutingHeader header = {pins, 0};
  std::memcpy(table.data(), &header, sizeof(header));
  for (unsigned pin = 0; pin < pins; ++pin) {
    kvm_irq_routing_entry entry{};
    entry.gsi = pin;
    entry.type = KVM_IRQ_ROUTING_IRQCHIP;
    entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
    entry.u.irqchip.pin = pin;
    std::memcpy(&table[kRoutingHeaderBytes + pin * sizeof(entry)], &entry, sizeof(entry));
  }
  if (RetryIoctl(fd(), kSetGsiRouting, HvaOf(table.data()).value) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("KVM_SET_GSI_ROUTING (%u pins)", pins));
  }
  return absl::OkStatus();
}

absl::Status Vm::AddIrqfd(int eventfd, uint32_t gsi) {
  kvm_irqfd request{};
  request.fd = static_cast<uint32_t>(eventfd);
  request.gsi = gsi;
  if (RetryIoctl(fd(), KVM_IRQFD, HvaOf(&request).value) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("KVM_IRQFD (interrupt %u)", gsi));
  }
  return absl::OkStatus();
}

absl::Status Vm::SetInterruptLine(uint32_t gsi, bool high) {
  kvm_irq_level request{};
  request.irq = gsi;
  request.level = high ? 1 : 0;
  if (RetryIoctl(fd(), KVM_IRQ_LINE, HvaOf(&request).value) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrFormat("KVM_IRQ_LINE (interrupt %u)", gsi));
  }
  return absl::OkStatus();
}

// One call clears the whole slot: the kernel checks and copies the bitmap before it clears anything,
// so a call that fails has cleared nothing. A page that is written between the two calls is in the
// result, and its reader copies it after the second one.
absl::StatusOr<std::vector<uint64_t>> Vm::TakeDirtyLog(uint32_t id, uint64_t pages) {
  constexpr uint64_t kPagesPerWord = 64;
  std::vector<uint64_t> words((pages + kPagesPerWord - 1) / kPagesPerWord);
  kvm_dirty_log log{};
  log.slot = id;
  log.dirty_bitmap = words.data();
  if (RetryIoctl(fd(), KVM_GET_DIRTY_LOG, HvaOf(&log).value) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("KVM_GET_DIRTY_LOG (slot %u): is it there, with a dirty log?", id));
  }
  if (!clears_dirty_log_apart_ ||
      std::all_of(words.begin(), words.end(), [](uint64_t word) { return word == 0; })) {
    return words;
  }
  kvm_clear_dirty_log clear{};
  clear.slot = id;
  clear.num_pages = static_cast<uint32_t>(pages);
  clear.dirty_bitmap = words.data();
  if (RetryIoctl(fd(), KVM_CLEAR_DIRTY_LOG, HvaOf(&clear).value) < 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("KVM_CLEAR_DIRTY_LOG (slot %u, %u pages)", id, pages));
  }
  return words;
}

absl::StatusOr<Kvm> Kvm::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return OpenError(path, errno);

  const int version = RetryIoctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is not KVM: it does not answer KVM_GET_API_VERSION"));
  }
  if (version != KVM_API_VERSION) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: KVM API version %d, and %d is needed: take a kernel of 2.6.22 or later", path, version,
        KVM_API_VERSION));
  }
  if (RetryIoctl(fd.get(), KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        path,
        ": no KVM_CAP_IMMEDIATE_EXIT, so vCPUs could not be paused: take Linux 4.12 or later"));
  }
  const int run_bytes = RetryIoctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) {
    return absl::InternalError(
        absl::StrFormat("KVM_GET_VCPU_MMAP_SIZE: %d, less than a kvm_run", run_bytes));
  }
  return Kvm(std::move(fd), static_cast<size_t>(run_bytes));
}

absl::StatusOr<Vm> Kvm::CreateVm() const {
  UniqueFd fd(RetryIoctl(this->fd(), KVM_CREATE_VM, 0));
  if (!fd.valid()) {
    return ErrnoStatus(errno, "KVM_CREATE_VM (type 0)",
                       "is another hypervisor holding the CPU's virtualization?");
  }
  return Vm(std::move(fd));
}

int Kvm::CheckExtension(int capability) const {
  const int answer = RetryIoctl(fd(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
  return answer < 0 ? 0 : answer;
}

std::string KvmVendor(const std::string& sys_module) {
  for (const char* vendor : {"kvm_intel", "kvm_amd", "kvm_pvm"}) {
    struct stat unused;
    if (stat(absl::StrCat(sys_module, "/", vendor).c_str(), &unused) == 0) {
      return vendor;
    }
  }
  return "unknown";
}

std::string WhyNoLinuxOn(const std::string& vendor) {
  if (vendor != "kvm_pvm") return "";
  return "this host's KVM (kvm_pvm) emulates a guest's ring 0 instruction by instruction and lacks "
         "some that a stock Linux kernel needs, so no such kernel comes up here; take a host whose "
         "KVM uses VT-x or SVM (kvm_intel, kvm_amd)";
}

}  // namespace underfoot
