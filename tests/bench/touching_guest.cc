#include "tests/bench/touching_guest.h"

#include <linux/kvm.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <ctime>
#include <span>
#include <thread>

#include "guest/abi.h"
#include "mmu/base/check.h"
#include "tests/bench/cpus.h"
#include "tests/bench/stopwatch.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/vcpu_signals.h"

namespace underfoot::bench {
namespace {

constexpr Gpa kCodeGpa{abi::kImageGpa};
constexpr Gpa kGdtGpa{abi::kImageGpa + 0x1000};
constexpr Gpa kIdtGpa{abi::kImageGpa + 0x2000};
constexpr Gpa kTssGpa{abi::kImageGpa + 0x3000};
constexpr Gpa kTimesGpa{abi::kImageGpa + 0x10000};
constexpr uint64_t kTimesBytes = 0x10000;  // of each vCPU
constexpr Gpa kMemoryGpa{abi::kSystemAreaBytes};
constexpr uint64_t kDevice = uint64_t{2} << 20;  // behind the memory: no slot, so a write exits

// r8: the first page; r9: how many; r11: from one to the next, in bytes; r12: the mask of the offset
// r10; rdi: where the times go; rbx: from one time to the next, in bytes; rsi: the device.
constexpr uint8_t kCode[] = {
    0x4d, 0x31, 0xd2,              // start: xor r10, r10
    0x4c, 0x89, 0xc9,              //        mov rcx, r9
    0x49, 0x89, 0xfe,              //        mov r14, rdi
    0x0f, 0x31,                    // touch: rdtsc
    0x41, 0x89, 0xc5,              //        mov r13d, eax
    0x43, 0xc6, 0x04, 0x10, 0x01,  //        mov byte [r8 + r10], 1
    0x0f, 0x31,                    //        rdtsc
    0x44, 0x29, 0xe8,              //        sub eax, r13d
    0x41, 0x89, 0x06,              //        mov [r14], eax
    0x49, 0x01, 0xde,              //        add r14, rbx
    0x4d, 0x01, 0xda,              //        add r10, r11
    0x4d, 0x21, 0xe2,              //        and r10, r12
    0x48, 0xff, 0xc9,              //        dec rcx
    0x75, 0xe0,                    //        jnz touch
    0x88, 0x06,                    //        mov [rsi], al
    0xeb, 0xd3,                    //        jmp start
};

// Instead of the write, for a guest that reads: mov al, [r8 + r10]; nop
constexpr size_t kAccessAt = 14;
constexpr uint8_t kRead[] = {0x43, 0x8a, 0x04, 0x10, 0x90};

constexpr uint64_t kGdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff,
                             0x00cff3000000ffff};

kvm_segment InRing3(kvm_segment segment, uint16_t selector) {
  segment.dpl = 3;
  segment.selector = selector;
  return segment;
}

absl::Status StartInRing3(Vcpu& vcpu) {
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
  return vcpu.SetSystemRegisters(*system);
}

uint64_t Ticks() { return __builtin_ia32_rdtsc(); }

// Takes the calling thread out of its guest each second. In a process that had made many VMs a guest
// was seen to run for ever on kvm_pvm; it went on when a signal had taken it out.
class Nudges {
 public:
  Nudges() {
    const absl::StatusOr<int> signal = VcpuKickSignal();
    UNDERFOOT_CHECK(signal.ok(), "there is no signal for a benchmark's vCPU", 0, 0);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = *signal;
    event._sigev_un._tid = gettid();
    const int failed = timer_create(CLOCK_MONOTONIC, &event, &timer_);
    UNDERFOOT_CHECK(failed == 0, "timer_create failed", errno, 0);
    const itimerspec each_second{.it_interval = {1, 0}, .it_value = {1, 0}};
    static_cast<void>(timer_settime(timer_, 0, &each_second, nullptr));
  }
  ~Nudges() { timer_delete(timer_); }
  Nudges(const Nudges&) = delete;
  Nudges& operator=(const Nudges&) = delete;

 private:
  timer_t timer_{};
};

}  // namespace

absl::StatusOr<std::unique_ptr<TouchingGuest>> TouchingGuest::Create(HvaRange memory,
                                                                     const Options& options) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return std::move(kvm).status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return std::move(vm).status();
  std::unique_ptr<TouchingGuest> self(
      new TouchingGuest(*std::move(kvm), *std::move(vm), memory.size() >> kPageShift, options));
  UNDERFOOT_CHECK(options.vcpus <= kMostVcpus &&
                      (!options.keep_times || self->PagesOfVcpu() * 4 <= kTimesBytes),
                  "too many vCPUs or pages for the times", options.vcpus, self->PagesOfVcpu());
  if (absl::Status loaded = self->Load(memory); !loaded.ok()) return loaded;
  for (unsigned i = 0; i < options.vcpus; ++i) {
    if (absl::Status added = self->AddVcpu(i); !added.ok()) return added;
  }
  for (unsigned i = 1; i < options.vcpus; ++i) {
    self->threads_[i].thread = std::thread([guest = self.get(), i] { guest->Serve(i); });
  }
  return self;
}

TouchingGuest::~TouchingGuest() {
  stop_ = true;
  for (VcpuThread& thread : threads_) {
    thread.go.release();
    if (thread.thread.joinable()) thread.thread.join();
  }
}

std::vector<int> TouchingGuest::CpusOf(unsigned vcpu) const {
  const std::vector<int>& all = AllowedCpus();
  return options_.pin ? std::vector<int>{all[vcpu % all.size()]} : all;
}

void TouchingGuest::Serve(unsigned vcpu) {
  const Pinned pinned(CpusOf(vcpu));
  for (;;) {
    threads_[vcpu].go.acquire();
    if (stop_) return;
    Run(vcpu);
    threads_[vcpu].done.release();
  }
}

Gpa TouchingGuest::TimesOf(unsigned vcpu) { return kTimesGpa + vcpu * kTimesBytes; }

absl::Status TouchingGuest::AddVcpu(unsigned index) {
  absl::StatusOr<Vcpu> vcpu = Vcpu::Create(kvm_, vm_, index);
  if (!vcpu.ok()) return std::move(vcpu).status();
  if (absl::Status set = SetCpuid(*vcpu, LongModeCpuid()); !set.ok()) return set;
  if (absl::Status started = StartInRing3(*vcpu); !started.ok()) return started;
  absl::StatusOr<kvm_regs> registers = vcpu->GetRegisters();
  if (!registers.ok()) return registers.status();
  const uint64_t part = PagesOfVcpu() * kPageSize;
  registers->r8 = kMemoryGpa.value + index * part;
  registers->r9 = PagesOfVcpu();
  registers->r11 = options_.stride * kPageSize;
  registers->r12 = options_.stride == 1 ? ~uint64_t{0} : part - 1;
  registers->rdi = TimesOf(index).value;
  registers->rbx = options_.keep_times ? 4 : 0;
  registers->rsi = kMemoryGpa.value + pages_ * kPageSize;
  vcpus_.push_back(*std::move(vcpu));
  return vcpus_.back().SetRegisters(*registers);
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
  if (absl::Status slot = vm_.SetMemslot(
          {.id = 0, .gpa = {0}, .bytes = system_.range().size(), .hva = system_.range().begin});
      !slot.ok()) {
    return slot;
  }
  memory_ = memory;
  return vm_.SetMemslot({.id = 1, .gpa = kMemoryGpa, .bytes = memory.size(), .hva = memory.begin});
}

absl::Status TouchingGuest::LogWrites() {
  return vm_.SetMemslot({.id = 1,
                         .gpa = kMemoryGpa,
                         .bytes = memory_.size(),
                         .hva = memory_.begin,
                         .log_dirty = true});
}

absl::StatusOr<std::vector<uint64_t>> TouchingGuest::TakeWritten() {
  return vm_.TakeDirtyLog(1, pages_);
}

// The vCPU stands behind the write to its device, and goes to the start of the code.
void TouchingGuest::Touch(const Some& some) {
  absl::StatusOr<kvm_regs> registers = vcpus_.front().GetRegisters();
  UNDERFOOT_CHECK(registers.ok(), "a benchmark's vCPU has no registers", 0, 0);
  registers->r8 = kMemoryGpa.value + some.first * kPageSize;
  registers->r9 = some.touched;
  registers->r12 = some.pages * kPageSize - 1;
  const absl::Status set = vcpus_.front().SetRegisters(*registers);
  UNDERFOOT_CHECK(set.ok(), "a benchmark's vCPU takes no registers", set.raw_code(), 0);
  std::memcpy(PointerOf(system_.range().begin + kCodeGpa.value + kAccessAt),
              some.access == Access::kRead ? kRead : kCode + kAccessAt, sizeof(kRead));
  std::memset(PointerOf(system_.range().begin + TimesOf(0).value), 0, kTimesBytes);
  Run(0);
}

std::vector<uint64_t> TouchingGuest::Touched(const Some& some) const {
  const auto* const ticks =
      static_cast<const uint32_t*>(PointerOf(system_.range().begin + TimesOf(0).value));
  std::vector<uint64_t> pages;
  for (uint64_t i = 0; i < some.pages; ++i) {
    if (ticks[i] != 0) pages.push_back(some.first + i * options_.stride % some.pages);
  }
  return pages;
}

void TouchingGuest::TouchAll() {
  const Stopwatch watch;
  const uint64_t before = Ticks();
  for (unsigned i = 1; i < options_.vcpus; ++i) threads_[i].go.release();
  Run(0);
  for (unsigned i = 1; i < options_.vcpus; ++i) threads_[i].done.acquire();
  ns_per_tick_ = watch.ElapsedNs() / static_cast<double>(Ticks() - before);
}

std::vector<double> TouchingGuest::WriteNs() const {
  std::vector<double> times;
  for (unsigned vcpu = 0; vcpu < options_.vcpus; ++vcpu) {
    const auto* const ticks =
        static_cast<const uint32_t*>(PointerOf(system_.range().begin + TimesOf(vcpu).value));
    for (uint64_t i = 0; i < PagesOfVcpu(); ++i) times.push_back(ticks[i] * ns_per_tick_);
  }
  return times;
}

void TouchingGuest::Run(unsigned index) {
  Vcpu& vcpu = vcpus_[index];
  const Nudges nudges;
  for (;;) {
    const RunOutcome outcome = vcpu.Run();
    if (outcome == RunOutcome::kInterrupted) continue;
    UNDERFOOT_CHECK(outcome == RunOutcome::kExit && vcpu.run().exit_reason == KVM_EXIT_MMIO,
                    "the touching guest came out for another reason", vcpu.run().exit_reason,
                    errno);
    return;
  }
}

}  // namespace underfoot::bench
