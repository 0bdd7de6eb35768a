#include "tests/support/minimal_vmm.h"

#include <sys/mman.h>

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "mmu/base/ordering.h"
#include "vmm/boot/loader.h"
#include "vmm/kvm/cpuid.h"

namespace underfoot::testing {
namespace {

uint64_t PreciousBytes(uint64_t memory_bytes) {
  return ((memory_bytes - abi::kSystemAreaBytes) / 2) & ~kPageMask;
}

KvmMemslot SlotOf(uint64_t memory_bytes, MinimalVmm::Slot slot, Hva ram) {
  const uint64_t shared = abi::kSystemAreaBytes + PreciousBytes(memory_bytes);
  uint64_t begin = 0;
  uint64_t end = 0;
  switch (slot) {
    case MinimalVmm::kSystem:
      end = abi::kSystemAreaBytes;
      break;
    case MinimalVmm::kPrecious:
      begin = abi::kSystemAreaBytes;
      end = shared;
      break;
    case MinimalVmm::kShared:
      begin = shared;
      end = shared + kPageSize;
      break;
    case MinimalVmm::kDiscardable:
      begin = shared + kPageSize;
      end = memory_bytes;
      break;
  }
  return {.id = slot, .gpa = {begin}, .bytes = end - begin, .hva = ram + begin};
}

std::atomic_ref<uint64_t> WordAt(Hva hva) {
  return std::atomic_ref<uint64_t>(*static_cast<uint64_t*>(PointerOf(hva)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<MinimalVmm>> MinimalVmm::Create(const MinimalVmmOptions& options) {
  absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (!kvm.ok()) return kvm.status();
  absl::StatusOr<Vm> vm = kvm->CreateVm();
  if (!vm.ok()) return vm.status();
  const int populate = options.populate ? MAP_POPULATE : 0;
  void* ram = mmap(nullptr, options.memory_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | populate, -1, 0);
  if (ram == MAP_FAILED) {
    return absl::ErrnoToStatus(
        errno, absl::StrFormat("mmap of %u bytes of guest memory", options.memory_bytes));
  }
  std::unique_ptr<MinimalVmm> self(new MinimalVmm(options, *std::move(vm), HvaOf(ram)));
  for (const Slot slot : {kSystem, kPrecious, kShared, kDiscardable}) {
    if (absl::Status status = self->RestoreSlot(slot); !status.ok()) return status;
  }
  if (absl::Status status = self->LoadGuest(); !status.ok()) return status;
  if (absl::Status status = self->AddVcpus(*kvm); !status.ok()) return status;
  return self;
}

MinimalVmm::MinimalVmm(const MinimalVmmOptions& options, Vm vm, Hva ram)
    : options_(options),
      ram_(ram),
      vm_(std::move(vm)),
      platform_(options.vcpus, ram, [this](unsigned, std::string_view line) {
        absl::MutexLock lock(&mutex_);
        lines_.emplace_back(line);
      }) {}

MinimalVmm::~MinimalVmm() {
  threads_.clear();  // stops them
  static_cast<void>(munmap(PointerOf(ram_), options_.memory_bytes));
}

absl::Status MinimalVmm::LoadGuest() {
  const auto write = [this](Gpa gpa, std::span<const std::byte> bytes) {
    std::memcpy(PointerOf(HvaOfGpa(gpa)), bytes.data(), bytes.size());
    return absl::OkStatus();
  };
  absl::StatusOr<Gpa> entry = LoadElf(EmbeddedGuest(), kImageRange, write);
  if (!entry.ok()) return entry.status();
  entry_ = *entry;
  BootConfig config{.memory_bytes = options_.memory_bytes,
                    .vcpus = options_.vcpus,
                    .workload = options_.workload,
                    .seed = options_.seed,
                    .max_rounds = options_.max_rounds,
                    .max_pages = options_.max_pages,
                    .final_pages = options_.final_pages,
                    .ranges = {}};
  const std::pair<Slot, abi::RangeKind> kinds[] = {{kPrecious, abi::RangeKind::kPrecious},
                                                   {kShared, abi::RangeKind::kShared},
                                                   {kDiscardable, abi::RangeKind::kDiscardable}};
  for (const auto& [id, kind] : kinds) {
    const KvmMemslot memslot = slot(id);
    config.ranges.push_back(
        {.gpa = memslot.gpa.value, .bytes = memslot.bytes, .kind = kind, .reserved = 0});
  }
  return WriteBootData(config, write);
}

absl::Status MinimalVmm::AddVcpus(const Kvm& kvm) {
  for (unsigned index = 0; index < options_.vcpus; ++index) {
    absl::StatusOr<Vcpu> vcpu = Vcpu::Create(kvm, vm_, index);
    if (!vcpu.ok()) return vcpu.status();
    if (absl::Status status = SetCpuid(*vcpu, LongModeCpuid()); !status.ok()) return status;
    if (absl::Status status = SetStartRegisters(*vcpu, entry_); !status.ok()) return status;
    threads_.push_back(std::make_unique<VcpuThread>(*std::move(vcpu), *this));
  }
  return absl::OkStatus();
}

absl::Status MinimalVmm::Start() {
  for (const auto& thread : threads_) {
    if (absl::Status status = thread->Start(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status MinimalVmm::Join() {
  absl::Status result;
  for (const auto& thread : threads_) result.Update(thread->Join());
  platform_.serial().Flush();
  return result;
}

absl::Status MinimalVmm::RemoveSlot(Slot slot) { return vm_.DeleteMemslot(slot); }

absl::Status MinimalVmm::RestoreSlot(Slot id) { return vm_.SetMemslot(slot(id)); }

KvmMemslot MinimalVmm::slot(Slot slot) const { return SlotOf(options_.memory_bytes, slot, ram_); }

uint64_t MinimalVmm::ReadWord(Gpa gpa) const { return WordAt(HvaOfGpa(gpa)).load(kRelaxed); }

void MinimalVmm::WriteWord(Gpa gpa, uint64_t value) {
  WordAt(HvaOfGpa(gpa)).store(value, kRelaxed);
}

abi::SharedPage& MinimalVmm::shared_page() {
  return *static_cast<abi::SharedPage*>(PointerOf(slot(kShared).hva));
}

std::vector<std::string> MinimalVmm::lines() const {
  absl::MutexLock lock(&mutex_);
  return lines_;
}

uint64_t MinimalVmm::mmio_exits() const {
  uint64_t sum = 0;
  for (const auto& thread : threads_) sum += thread->exits().mmio;
  return sum;
}

ExitOutcome MinimalVmm::OnPortIo(unsigned vcpu, const PortIo& io) {
  return platform_.OnPortIo(vcpu, io);
}

// The guest's accesses to data memory are aligned words (guest/abi.h): one atomic access each, so
// that what it does here orders with what the others do on the mapping.
absl::Status MinimalVmm::OnMmio(unsigned, Gpa gpa, std::span<std::byte> data, bool write) {
  if (gpa.value < abi::kSystemAreaBytes || gpa.value >= options_.memory_bytes ||
      gpa.value % sizeof(uint64_t) != 0 || data.size() != sizeof(uint64_t)) {
    return absl::OutOfRangeError("no aligned word of RAM");
  }
  const std::atomic_ref<uint64_t> word = WordAt(HvaOfGpa(gpa));
  uint64_t value = 0;
  if (write) {
    std::memcpy(&value, data.data(), sizeof(value));
    word.store(value, kRelease);
  } else {
    value = word.load(kAcquire);
    std::memcpy(data.data(), &value, sizeof(value));
  }
  return absl::OkStatus();
}

ExitOutcome MinimalVmm::OnHalt(unsigned) { return ExitOutcome::kStop; }

MemoryFaultOutcome MinimalVmm::OnMemoryFault(unsigned, const MemoryFault& fault) {
  return memory_fault_handler_(fault);
}

void MinimalVmm::OnFatal(unsigned, const absl::Status&) {}  // Join reports it

std::optional<std::string> WhyNoKvm() {
  const absl::StatusOr<Kvm> kvm = Kvm::Open();
  if (kvm.ok()) return std::nullopt;
  return std::string(kvm.status().message());
}

}  // namespace underfoot::testing
