#include "tests/bench/touching_guest.h"

#include <linux/kvm.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>

#include "guest/abi.h"
#include "mmu/check.h"
#include "vmm/boot.h"

namespace underfoot::bench {
namespace {

constexpr Gpa kCodeGpa{abi::kImageGpa};
constexpr Gpa kGdtGpa{abi::kImageGpa + 0x1000};
constexpr Gpa kIdtGpa{abi::kImageGpa + 0x2000};
constexpr Gpa kTssGpa{abi::kImageGpa + 0x3000};
constexpr Gpa kMemoryGpa{abi::kSystemAreaBytes};
constexpr uint64_t kDevice = uint64_t{2} << 20;  // behind the memory: no slot, so a write exits

// rdi: a page; rcx: how many are left; r8, r9: where both start; rsi: the device.
constexpr uint8_t kCode[] = {
    0x4c, 0x89, 0xc7,                          // start: mov rdi, r8
    0x4c, 0x89, 0xc9,                          //        mov rcx, r9
    0xc6, 0x07, 0x01,                          // touch: mov byte [rdi], 1
    0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,  //        add rdi, 4096
    0x48, 0xff, 0xc9,                          //        dec rcx
    0x75, 0xf1,                                //        jnz touch
    0x88, 0x06,                                //        mov [rsi], al
    0xeb, 0xe7,                                //        jmp start
};

constexpr uint64_t kGdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff,
                             0x00cff3000000ffff};

kvm_segment InRing3(kvm_segment segment, uint16_t selector) {
  segment.dpl = 3;
  segment.selector = selector;
  return segment;
}

absl::Status StartInRing3(Vcpu& vcpu, uint64_t pages) {
  if (absl::Status set = SetStartRegisters(vcpu, kCodeGpa); !set.ok()) return set;
  absl::StatusOr<kvm_sregs> system = vcpu.GetSystemRegisters();
  if (!system.ok()) return system.status();
  system->cs = InRing3(system->cs, 0x1b);
  for (kvm_segment* data : {&system->ds, &system->es, &system->fs, &system->gs, &system->ss}) {
    *data = InRing3(*data, 0x23);
  }
  system->gdt.base = kGdtGpa.value;
  system->gdt.limit = sizeof(kGdt) - 1;
  system->idt.base = kIdtGpa.value;
  system->idt.limit = 0xfff;
  system->tr.base = kTssGpa.value;
  system->tr.limit = 0x67;
  if (absl::Status set = vcpu.SetSystemRegisters(*system); !set.ok()) return set;
  absl::StatusOr<kvm_regs> registers = vcpu.GetRegisters();
  if (!registers.ok()) return registers.status();
  registers->r8 = kMemoryGpa.value;
  registers->r9 = pages;
  registers->rsi = kMemoryGpa.value + pages * kPageSize;
  return vcpu.SetRegisters(*registers);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TouchingGuest>> TouchingGuest::Create(HvaRange memory) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return std::move(kvm).status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return std::move(vm).status();
  absl::StatusOr<Vcpu> vcpu = Vcpu::Create(*kvm, *vm, 0);
  if (!vcpu.ok()) return std::move(vcpu).status();
  std::unique_ptr<TouchingGuest> self(
      new TouchingGuest(*std::move(kvm), *std::move(vm), *std::move(vcpu)));
  if (absl::Status loaded = self->Load(memory); !loaded.ok()) return loaded;
  return self;
}

absl::Status TouchingGuest::Load(HvaRange memory) {
  const auto write = [&](Gpa gpa, std::span<const std::byte> bytes) {
    std::memcpy(PointerOf(system_.range().begin + gpa.value), bytes.data(), bytes.size());
    return absl::OkStatus();
  };
  BootConfig config;
  config.memory_bytes = kMemoryGpa.value + memory.size() + kDevice;
  if (absl::Status data = WriteBootData(config, write); !data.ok()) return data;
  if (absl::Status code = write(kCodeGpa, std::as_bytes(std::span(kCode))); !code.ok()) return code;
  if (absl::Status gdt = write(kGdtGpa, std::as_bytes(std::span(kGdt))); !gdt.ok()) return gdt;
  if (absl::Status cpuid = vcpu_.CopyHostCpuid(kvm_); !cpuid.ok()) return cpuid;
  if (absl::Status slot = vm_.SetMemslot(
          {.id = 0, .gpa = {0}, .bytes = system_.range().size(), .hva = system_.range().begin});
      !slot.ok()) {
    return slot;
  }
  if (absl::Status slot =
          vm_.SetMemslot({.id = 1, .gpa = kMemoryGpa, .bytes = memory.size(), .hva = memory.begin});
      !slot.ok()) {
    return slot;
  }
  return StartInRing3(vcpu_, memory.size() / kPageSize);
}

void TouchingGuest::TouchAll() {
  for (;;) {
    const RunOutcome outcome = vcpu_.Run();
    if (outcome == RunOutcome::kInterrupted) continue;
    UNDERFOOT_CHECK(outcome == RunOutcome::kExit && vcpu_.run().exit_reason == KVM_EXIT_MMIO,
                    "the touching guest came out for another reason", vcpu_.run().exit_reason,
                    errno);
    return;
  }
}

}  // namespace underfoot::bench
