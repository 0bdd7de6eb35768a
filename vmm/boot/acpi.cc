#include "vmm/boot/acpi.h"

#include <cstring>
#include <numeric>
#include <string_view>

#include "vmm/boot/pc_layout.h"

// Symbols that dsdt_image.S defines; the table is between them.
extern "C" const std::byte underfoot_dsdt_begin[];
extern "C" const std::byte underfoot_dsdt_end[];

namespace underfoot {
namespace {

struct [[gnu::packed]] Header {
  char signature[4];
  uint32_t bytes;
  uint8_t revision;
  uint8_t checksum;
  char oem[6];
  char oem_table[8];
  uint32_t oem_revision;
  char creator[4];
  uint32_t creator_revision;
};
static_assert(sizeof(Header) == 36);

struct [[gnu::packed]] Rsdp {
  char signature[8];
  uint8_t checksum;  // of the first kRsdp1Bytes
  char oem[6];
  uint8_t revision;
  uint32_t rsdt;
  uint32_t bytes;
  uint64_t xsdt;
  uint8_t extended_checksum;
  uint8_t reserved[3];
};
constexpr size_t kRsdp1Bytes = 20;
static_assert(sizeof(Rsdp) == 36);

struct [[gnu::packed]] Xsdt {
  Header header;
  uint64_t fadt;
  uint64_t madt;
};

struct [[gnu::packed]] Register {
  uint8_t space = 0;
  uint8_t bits = 0;
  uint8_t offset = 0;
  uint8_t access = 0;
  uint64_t address = 0;
};
static_assert(sizeof(Register) == 12);

// ACPI 6.4, table 5.9. What is left out is zero on a hardware-reduced platform.
struct [[gnu::packed]] Fadt {
  Header header;
  uint8_t left_out_1[73];
  uint16_t pc_architecture;
  uint8_t left_out_2;
  uint32_t flags;
  Register reset;
  uint8_t reset_value;
  uint8_t left_out_3[11];
  uint64_t dsdt;
  uint8_t left_out_4[96];
  Register sleep_control;
  Register sleep_status;
  uint64_t hypervisor;
};
static_assert(offsetof(Fadt, pc_architecture) == 109 && offsetof(Fadt, flags) == 112);
static_assert(offsetof(Fadt, reset) == 116 && offsetof(Fadt, dsdt) == 140);
static_assert(offsetof(Fadt, sleep_control) == 244 && sizeof(Fadt) == 276);

struct [[gnu::packed]] Madt {
  Header header;
  uint32_t local_apic;
  uint32_t flags;  // 0: there is no 8259
};

struct [[gnu::packed]] MadtLocalApic {
  uint8_t type;
  uint8_t bytes;
  uint8_t processor;
  uint8_t apic_id;
  uint32_t flags;
};

struct [[gnu::packed]] MadtIoApic {
  uint8_t type;
  uint8_t bytes;
  uint8_t id;
  uint8_t reserved;
  uint32_t address;
  uint32_t first_gsi;
};

constexpr uint8_t kFadtRevision = 6;
constexpr uint8_t kMadtRevision = 4;
// Without them the kernel would probe for a keyboard controller, a VGA card and a clock, for seconds.
constexpr uint16_t kNoVga = 1 << 2;
constexpr uint16_t kNoCmosClock = 1 << 5;
constexpr uint32_t kResetIsSupported = 1 << 10;
constexpr uint32_t kHardwareReduced = 1 << 20;
constexpr uint8_t kPortSpace = 1;
constexpr uint8_t kByteAccess = 1;
constexpr uint8_t kLocalApicType = 0;
constexpr uint8_t kIoApicType = 1;
constexpr uint32_t kProcessorIsEnabled = 1;
constexpr size_t kTableAlignment = 16;

uint8_t ChecksumOf(std::span<const std::byte> bytes) {
  const unsigned sum = std::accumulate(
      bytes.begin(), bytes.end(), 0u,
      [](unsigned so_far, std::byte byte) { return so_far + std::to_integer<unsigned>(byte); });
  return static_cast<uint8_t>(-sum);
}

Header MakeHeader(std::string_view signature, uint8_t revision) {
  Header header{};
  std::memcpy(header.signature, signature.data(), sizeof(header.signature));
  header.revision = revision;
  std::memcpy(header.oem, "UNDRFT", sizeof(header.oem));
  std::memcpy(header.oem_table, "UNDRFOOT", sizeof(header.oem_table));
  header.oem_revision = 1;
  std::memcpy(header.creator, "UNDR", sizeof(header.creator));
  header.creator_revision = 1;
  return header;
}

Register ByteWidePort(uint16_t port) {
  return {.space = kPortSpace, .bits = 8, .offset = 0, .access = kByteAccess, .address = port};
}

template <class T>
void Append(std::vector<std::byte>& bytes, const T& value) {
  const size_t at = bytes.size();
  bytes.resize(at + sizeof(value));
  std::memcpy(&bytes[at], &value, sizeof(value));
}

// Gives a table its length and its checksum.
std::vector<std::byte> Seal(std::vector<std::byte> table) {
  const auto bytes = static_cast<uint32_t>(table.size());
  std::memcpy(&table[offsetof(Header, bytes)], &bytes, sizeof(bytes));
  table[offsetof(Header, checksum)] = std::byte{0};
  table[offsetof(Header, checksum)] = std::byte{ChecksumOf(table)};
  return table;
}

template <class T>
std::vector<std::byte> Seal(const T& table) {
  std::vector<std::byte> bytes;
  Append(bytes, table);
  return Seal(std::move(bytes));
}

std::vector<std::byte> MakeMadt(uint32_t vcpus) {
  std::vector<std::byte> bytes;
  Append(
      bytes,
      Madt{.header = MakeHeader("APIC", kMadtRevision), .local_apic = pc::kLocalApic, .flags = 0});
  for (uint32_t vcpu = 0; vcpu < vcpus; ++vcpu) {
    Append(bytes, MadtLocalApic{.type = kLocalApicType,
                                .bytes = sizeof(MadtLocalApic),
                                .processor = static_cast<uint8_t>(vcpu),
                                .apic_id = static_cast<uint8_t>(vcpu),
                                .flags = kProcessorIsEnabled});
  }
  Append(bytes, MadtIoApic{.type = kIoApicType,
                           .bytes = sizeof(MadtIoApic),
                           .id = 0,
                           .reserved = 0,
                           .address = pc::kIoApic,
                           .first_gsi = 0});
  return Seal(std::move(bytes));
}

std::vector<std::byte> MakeFadt(Gpa dsdt) {
  Fadt fadt{};
  fadt.header = MakeHeader("FACP", kFadtRevision);
  fadt.pc_architecture = kNoVga | kNoCmosClock;
  fadt.flags = kHardwareReduced | kResetIsSupported;
  fadt.reset = ByteWidePort(pc::kResetPort);
  fadt.reset_value = pc::kResetValue;
  fadt.dsdt = dsdt.value;
  fadt.sleep_control = ByteWidePort(pc::kSleepControlPort);
  fadt.sleep_status = ByteWidePort(pc::kSleepStatusPort);
  return Seal(fadt);
}

std::vector<std::byte> MakeRsdp(Gpa xsdt) {
  Rsdp rsdp{};
  std::memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
  std::memcpy(rsdp.oem, "UNDRFT", sizeof(rsdp.oem));
  rsdp.revision = 2;
  rsdp.bytes = sizeof(rsdp);
  rsdp.xsdt = xsdt.value;
  rsdp.checksum = ChecksumOf(std::as_bytes(std::span(&rsdp, 1)).first(kRsdp1Bytes));
  rsdp.extended_checksum = ChecksumOf(std::as_bytes(std::span(&rsdp, 1)));
  std::vector<std::byte> bytes;
  Append(bytes, rsdp);
  return bytes;
}

}  // namespace

std::vector<std::byte> MakeAcpiTables(Gpa at, uint32_t vcpus, std::span<const std::byte> dsdt) {
  // The RSDP has a fixed size, so the other tables may come before it is known.
  std::vector<std::byte> all(sizeof(Rsdp));
  const auto add = [&](std::span<const std::byte> table) {
    all.resize((all.size() + kTableAlignment - 1) / kTableAlignment * kTableAlignment);
    const Gpa gpa = at + all.size();
    all.insert(all.end(), table.begin(), table.end());
    return gpa;
  };
  const Gpa dsdt_gpa = add(dsdt);
  const Gpa fadt = add(MakeFadt(dsdt_gpa));
  const Gpa madt = add(MakeMadt(vcpus));
  const Gpa xsdt =
      add(Seal(Xsdt{.header = MakeHeader("XSDT", 1), .fadt = fadt.value, .madt = madt.value}));
  const std::vector<std::byte> rsdp = MakeRsdp(xsdt);
  std::memcpy(all.data(), rsdp.data(), rsdp.size());
  return all;
}

std::span<const std::byte> Dsdt() { return {underfoot_dsdt_begin, underfoot_dsdt_end}; }

}  // namespace underfoot
