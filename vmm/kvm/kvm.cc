#include "vmm/kvm/kvm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

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
      return absl::ErrnoToStatus(error, absl::StrCat("open ", path));
  }
}

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
    return absl::ErrnoToStatus(
        errno, "KVM_CREATE_VM (type 0): is another hypervisor holding the CPU's virtualization?");
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

}  // namespace underfoot
