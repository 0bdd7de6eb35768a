#include "vmm/kvm/cpuid.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <memory>

#include "absl/strings/str_format.h"
#include "guest/abi.h"

namespace underfoot {
namespace {

// kvm_cpuid2 with the layout that the kernel uses. If the header is compiled as C++, the flexible
// array of its struct is at an offset 4 bytes too large and the struct is 12 bytes long, which
// changes even the numbers of the ioctls.
struct CpuidTable {
  static constexpr uint32_t kMaxEntries = 256;
  uint32_t count = kMaxEntries;
  uint32_t padding = 0;
  kvm_cpuid_entry2 entries[kMaxEntries] = {};
};
using Header = uint32_t[2];
static_assert(offsetof(CpuidTable, entries) == sizeof(Header));
constexpr unsigned long kGetSupportedCpuid = _IOWR(KVMIO, 0x05, Header);
constexpr unsigned long kSetCpuid2 = _IOW(KVMIO, 0x90, Header);

constexpr uint32_t kVendor = 0;
constexpr uint32_t kVendorIsAmd = 0x68747541;  // leaf 0, ebx: "Auth"
constexpr uint32_t kFeatures = 1;
constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kTopology2 = 0x1f;
constexpr uint32_t kExtendedLeaves = 0x80000000;
constexpr uint32_t kExtendedFeatures = 0x80000001;
constexpr uint32_t kSizes = 0x80000008;
constexpr uint32_t kAmdTopology = 0x8000001e;

constexpr uint32_t kTscDeadline = 1u << 24;     // leaf 1, ecx
constexpr uint32_t kHypervisor = 1u << 31;      // leaf 1, ecx
constexpr uint32_t kHyperThreading = 1u << 28;  // leaf 1, edx: the count of processors is valid
constexpr uint32_t kMostInLeaf1 = 255;
constexpr uint32_t kLongMode = 1u << 29;  // leaf 0x80000001, edx
constexpr uint32_t kLinearAddressBits = 48;

// The bits of an APIC id below the number of the socket.
uint32_t ApicIdBits(uint32_t vcpus) { return static_cast<uint32_t>(std::bit_width(vcpus - 1)); }

void PatchFeatures(kvm_cpuid_entry2& leaf, const PcCpu& cpu) {
  leaf.ecx |= kHypervisor;
  if (cpu.tsc_deadline) leaf.ecx |= kTscDeadline;
  const uint32_t count = cpu.vcpus < kMostInLeaf1 ? cpu.vcpus : kMostInLeaf1;
  leaf.ebx = (leaf.ebx & 0xffff) | count << 16 | cpu.apic_id << 24;
  leaf.edx = cpu.vcpus > 1 ? leaf.edx | kHyperThreading : leaf.edx & ~kHyperThreading;
}

// Two levels: threads, of which a core has one, and cores.
void AddTopology(std::vector<kvm_cpuid_entry2>& leaves, const PcCpu& cpu) {
  for (const uint32_t level : {0u, 1u}) {
    kvm_cpuid_entry2 leaf{};
    leaf.function = kTopology;
    leaf.index = level;
    leaf.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    leaf.eax = level == 0 ? 0 : ApicIdBits(cpu.vcpus);
    leaf.ebx = level == 0 ? 1 : cpu.vcpus;
    leaf.ecx = level | (level + 1) << 8;
    leaf.edx = cpu.apic_id;
    leaves.push_back(leaf);
  }
}

}  // namespace

absl::StatusOr<std::vector<kvm_cpuid_entry2>> SupportedCpuid(const Kvm& kvm) {
  const auto table = std::make_unique<CpuidTable>();
  if (ioctl(kvm.fd(), kGetSupportedCpuid, table.get()) < 0) {
    return absl::ErrnoToStatus(errno, "KVM_GET_SUPPORTED_CPUID");
  }
  return std::vector<kvm_cpuid_entry2>(table->entries, table->entries + table->count);
}

absl::Status SetCpuid(const Vcpu& vcpu, std::span<const kvm_cpuid_entry2> leaves) {
  const auto table = std::make_unique<CpuidTable>();
  if (leaves.size() > CpuidTable::kMaxEntries) {
    return absl::InvalidArgumentError(absl::StrFormat("%u CPUID leaves, and KVM takes at most %u",
                                                      leaves.size(), CpuidTable::kMaxEntries));
  }
  table->count = static_cast<uint32_t>(leaves.size());
  std::copy(leaves.begin(), leaves.end(), table->entries);
  if (ioctl(vcpu.fd(), kSetCpuid2, table.get()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      errno, absl::StrFormat("KVM_SET_CPUID2 of vCPU %u (%u leaves)", vcpu.index(), table->count));
}

// Without the leaf of sizes the vCPU has addresses of 36 bits only, and the MMIO window lies above.
std::vector<kvm_cpuid_entry2> LongModeCpuid() {
  constexpr uint32_t kAddressBits = std::bit_width(abi::kMmioGpa + abi::kMmioBytes - 1);
  kvm_cpuid_entry2 highest{};
  highest.function = kExtendedLeaves;
  highest.eax = kSizes;
  kvm_cpuid_entry2 features{};
  features.function = kExtendedFeatures;
  features.edx = kLongMode;
  kvm_cpuid_entry2 sizes{};
  sizes.function = kSizes;
  sizes.eax = kAddressBits | kLinearAddressBits << 8;
  return {highest, features, sizes};
}

std::vector<kvm_cpuid_entry2> PcCpuid(std::vector<kvm_cpuid_entry2> supported, const PcCpu& cpu) {
  const auto is_topology = [](const kvm_cpuid_entry2& leaf) {
    return leaf.function == kTopology || leaf.function == kTopology2;
  };
  const bool amd = std::any_of(supported.begin(), supported.end(), [](const auto& leaf) {
    return leaf.function == kVendor && leaf.ebx == kVendorIsAmd;
  });
  const bool has_topology = std::erase_if(supported, is_topology) != 0;
  for (kvm_cpuid_entry2& leaf : supported) {
    switch (leaf.function) {
      case kFeatures:
        PatchFeatures(leaf, cpu);
        break;
      case kSizes:
        if (!amd) break;
        leaf.ecx = (leaf.ecx & ~0xf0ffu) | ApicIdBits(cpu.vcpus) << 12 | (cpu.vcpus - 1);
        break;
      case kAmdTopology:
        leaf.eax = cpu.apic_id;
        leaf.ebx = cpu.apic_id & 0xff;  // a core with one thread
        leaf.ecx = 0;                   // one node
        break;
      default:
        break;
    }
  }
  if (has_topology) AddTopology(supported, cpu);
  return supported;
}

}  // namespace underfoot
