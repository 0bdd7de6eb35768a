// The least program that runs a guest to its first byte: one page, one memslot, one vCPU in real
// mode, one `out`. What the start of underfoot is compared with.
//
// It has no library of ours and is linked statically. Exits with the number of the step that
// failed.

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint8_t kCode[] = {0xba, 0xf8, 0x03,  // mov dx, 0x3f8
                             0xb0, 'H',         // mov al, 'H'
                             0xee,              // out dx, al
                             0xf4};             // hlt

bool SetStart(int vcpu) {
  kvm_sregs sregs{};
  if (ioctl(vcpu, KVM_GET_SREGS, &sregs) != 0) return false;
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  if (ioctl(vcpu, KVM_SET_SREGS, &sregs) != 0) return false;
  kvm_regs regs{};
  regs.rflags = 2;
  return ioctl(vcpu, KVM_SET_REGS, &regs) == 0;
}

int RunToFirstByte() {
  const int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) return 1;
  const int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  if (vm < 0) return 2;
  void* page =
      mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 3;
  std::memcpy(page, kCode, sizeof(kCode));
  kvm_userspace_memory_region slot{};
  slot.memory_size = kPageBytes;
  std::memcpy(&slot.userspace_addr, &page, sizeof(page));
  if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) != 0) return 4;
  const int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  if (vcpu < 0 || !SetStart(vcpu)) return 5;
  const int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes <= 0) return 6;
  void* shared =
      mmap(nullptr, static_cast<size_t>(run_bytes), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  if (shared == MAP_FAILED) return 7;
  auto* run = static_cast<kvm_run*>(shared);
  if (ioctl(vcpu, KVM_RUN, 0) != 0 || run->exit_reason != KVM_EXIT_IO) return 8;
  const char* byte = static_cast<const char*>(shared) + run->io.data_offset;
  return write(STDOUT_FILENO, byte, 1) == 1 ? 0 : 9;
}

}  // namespace

int main() { return RunToFirstByte(); }
