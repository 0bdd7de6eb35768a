#include "vmm/boot/boot.h"

#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "absl/strings/str_format.h"
#include "vmm/config/run_options.h"

namespace underfoot {
namespace {

constexpr uint64_t kEntries = 512;
constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kDirectorySpan = kEntries * kLargePage;  // 1 GiB

// x86-64 page-table bits. Accessed and dirty are set from the start: a CPU that walks these tables
// then never writes to them.
constexpr uint64_t kPresent = 1;
constexpr uint64_t kWritable = 2;
constexpr uint64_t kUser = 4;
constexpr uint64_t kUncached = 0x10;
constexpr uint64_t kAccessed = 0x20;
constexpr uint64_t kDirty = 0x40;
constexpr uint64_t kLarge = 0x80;
constexpr uint64_t kTableBits = kPresent | kWritable | kUser | kAccessed;
constexpr uint64_t kLeafBits = kTableBits | kDirty | kLarge;

constexpr Gpa kRoot{abi::kPageTablesGpa};
constexpr Gpa kPointers = kRoot + kPageSize;  // one page of pointers spans 512 GiB
constexpr Gpa kDirectories = kPointers + kPageSize;
constexpr uint64_t kMaxDirectories = (abi::kPageTablesEnd - kDirectories.value) / kPageSize;
static_assert(kMaxMemoryBytes == kMaxDirectories * kDirectorySpan);
// A slot that is moved away for a moment lies below twice the RAM.
static_assert(2 * kMaxMemoryBytes <= abi::kMmioGpa && abi::kMmioBytes <= kLargePage);

using Table = std::array<uint64_t, kEntries>;

absl::Status CheckRange(const BootConfig& config, size_t i) {
  const abi::DataRange& range = config.ranges[i];
  const auto refuse = [&](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrFormat("data range %u, gpa %#x, %#x bytes: %s", i, range.gpa, range.bytes, why));
  };
  if (range.kind < abi::RangeKind::kPrecious || range.kind > abi::RangeKind::kShared) {
    return refuse("its kind is none of precious, discardable, shared");
  }
  if ((range.gpa | range.bytes) & kPageMask) return refuse("not whole pages");
  if (range.bytes == 0) return refuse("empty");
  if (range.gpa < abi::kSystemAreaBytes) return refuse("inside the system area, below 16 MiB");
  if (range.gpa > config.memory_bytes || range.bytes > config.memory_bytes - range.gpa) {
    return refuse("beyond the end of memory");
  }
  for (size_t j = 0; j < i; ++j) {
    const abi::DataRange& other = config.ranges[j];
    if (range.gpa < other.gpa + other.bytes && other.gpa < range.gpa + range.bytes) {
      return refuse("overlaps an earlier one");
    }
  }
  return absl::OkStatus();
}

absl::Status WriteTable(Gpa gpa, const Table& table, GuestWriter write) {
  return write(gpa, std::as_bytes(std::span(table)));
}

absl::Status WritePageTables(uint64_t memory_bytes, GuestWriter write) {
  const uint64_t leaves = (memory_bytes + kLargePage - 1) / kLargePage;
  const uint64_t directories = (leaves + kEntries - 1) / kEntries;

  Table root{};
  root[0] = kPointers.value | kTableBits;
  if (absl::Status status = WriteTable(kRoot, root, write); !status.ok()) return status;

  Table pointers{};
  pointers[abi::kMmioGpa / kDirectorySpan] = abi::kMmioDirectoryGpa | kTableBits;
  for (uint64_t d = 0; d < directories; ++d) {
    pointers[d] = (kDirectories + d * kPageSize).value | kTableBits;
  }
  if (absl::Status status = WriteTable(kPointers, pointers, write); !status.ok()) return status;

  Table window{};
  window[abi::kMmioGpa / kLargePage % kEntries] = abi::kMmioGpa | kLeafBits | kUncached;
  if (absl::Status status = WriteTable({abi::kMmioDirectoryGpa}, window, write); !status.ok()) {
    return status;
  }

  for (uint64_t d = 0; d < directories; ++d) {
    Table directory{};
    const uint64_t present = std::min(leaves - d * kEntries, kEntries);
    for (uint64_t i = 0; i < present; ++i) {
      directory[i] = (d * kDirectorySpan + i * kLargePage) | kLeafBits;
    }
    absl::Status status = WriteTable(kDirectories + d * kPageSize, directory, write);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

kvm_segment Segment(uint8_t type, uint16_t selector) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

}  // namespace

absl::Status CheckBootConfig(const BootConfig& config) {
  if (config.memory_bytes < abi::kSystemAreaBytes || config.memory_bytes > kMaxMemoryBytes ||
      (config.memory_bytes & kPageMask) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("guest memory of %u bytes: must be whole pages, from %u MiB (the system "
                        "area) to %u GiB (what the guest's page tables have room for)",
                        config.memory_bytes, abi::kSystemAreaBytes >> 20, kMaxMemoryBytes >> 30));
  }
  if (config.hotplug_bytes > kMaxMemoryBytes - config.memory_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%u bytes of memory that can be plugged, behind %u bytes: more than the %u GiB that the "
        "guest's page tables have room for",
        config.hotplug_bytes, config.memory_bytes, kMaxMemoryBytes >> 30));
  }
  if (config.vcpus < 1 || config.vcpus > abi::kMaxVcpus) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%u vCPUs: must be 1 to %u", config.vcpus, abi::kMaxVcpus));
  }
  if (config.workload > abi::Workload::kMixed) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "workload %u: the guest knows 0 to %u", static_cast<uint64_t>(config.workload),
        static_cast<uint64_t>(abi::Workload::kMixed)));
  }
  const uint64_t data_pages = (config.memory_bytes - abi::kSystemAreaBytes) / kPageSize;
  if (config.keep_visits && data_pages > abi::kMaxVisits) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest memory of %u bytes: to note visits there is room for %u pages; take less memory",
        config.memory_bytes, abi::kMaxVisits));
  }
  if (config.ranges.size() > abi::kMaxRanges) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%u data ranges: at most %u", config.ranges.size(), abi::kMaxRanges));
  }
  for (size_t i = 0; i < config.ranges.size(); ++i) {
    if (absl::Status status = CheckRange(config, i); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WriteBootData(const BootConfig& config, GuestWriter write) {
  if (absl::Status status = CheckBootConfig(config); !status.ok()) return status;
  const uint64_t mapped_bytes = config.memory_bytes + config.hotplug_bytes;
  if (absl::Status status = WritePageTables(mapped_bytes, write); !status.ok()) return status;
  const std::array<abi::Report, abi::kMaxVcpus> reports{};
  absl::Status status = write({abi::kReportsGpa}, std::as_bytes(std::span(reports)));
  if (!status.ok()) return status;
  // What a vCPU touches first, its text and pages of its stack. A fault of a vCPU takes many times as
  // long as this write.
  static constexpr std::array<std::byte, 3 * kPageSize> kZeroes{};
  static_assert(sizeof(kZeroes) <= abi::kStackBytes);
  for (uint64_t vcpu = 0; vcpu < config.vcpus; ++vcpu) {
    status = write(Gpa{abi::StackTop(vcpu) - sizeof(kZeroes)}, kZeroes);
    if (!status.ok()) return status;
    status = write(Gpa{abi::TextGpa(vcpu)}, std::span(kZeroes).first(abi::kTextBytes));
    if (!status.ok()) return status;
  }

  abi::BootInfo info{};
  info.magic = abi::kMagic;
  info.version = abi::kVersion;
  info.vcpus = config.vcpus;
  info.workload = config.workload;
  info.seed = config.seed;
  info.max_rounds = config.max_rounds;
  info.max_pages = config.max_pages;
  info.final_pages = config.final_pages;
  info.memory_bytes = config.memory_bytes;
  info.keep_visits = config.keep_visits ? 1 : 0;
  info.visit_epoch = 1;
  info.virtio_devices = config.virtio_devices;
  info.device_turns = config.device_turns;
  info.range_count = config.ranges.size();
  std::copy(config.ranges.begin(), config.ranges.end(), info.ranges);
  return write({abi::kBootInfoGpa}, std::as_bytes(std::span(&info, 1)));
}

absl::Status SetStartRegisters(Vcpu& vcpu, Gpa entry) {
  absl::StatusOr<kvm_sregs> system = vcpu.GetSystemRegisters();
  if (!system.ok()) return system.status();
  kvm_segment code = Segment(/*type=*/11, /*selector=*/0x08);
  code.l = 1;
  kvm_segment data = Segment(/*type=*/3, /*selector=*/0x10);
  data.db = 1;
  system->cs = code;
  system->ds = system->es = system->fs = system->gs = system->ss = data;
  // The reset state's TSS is a busy 16-bit one, which is not allowed in 64-bit mode.
  system->tr.type = 11;
  system->tr.present = 1;
  system->tr.s = 0;
  system->tr.base = 0;
  system->tr.limit = 0xffff;
  system->cr3 = kRoot.value;
  system->cr4 = 0x620;       // PAE, OSFXSR, OSXMMEXCPT
  system->cr0 = 0x80050033;  // PG, AM, WP, NE, ET, MP, PE
  system->efer = 0x501;      // LMA, LME, SCE
  if (absl::Status status = vcpu.SetSystemRegisters(*system); !status.ok()) return status;

  kvm_regs registers{};
  registers.rip = entry.value;
  registers.rsp = abi::StackTop(vcpu.index());
  registers.rdi = abi::kBootInfoGpa;
  registers.rsi = vcpu.index();
  registers.rflags = 2;  // the bit that is always one; interrupts off
  return vcpu.SetRegisters(registers);
}

}  // namespace underfoot
