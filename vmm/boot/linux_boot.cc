#include "vmm/boot/linux_boot.h"

#include <asm/bootparam.h>
#include <linux/kvm.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "absl/strings/str_format.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/pc_layout.h"

namespace underfoot {
namespace {

constexpr uint64_t kEntries = 512;
constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kDirectories = 4;  // 4 GiB
constexpr uint64_t kTableBits = 3;    // present, writable
constexpr uint64_t kLeafBits = kTableBits | 0x80;

// Segment descriptors of 4 GiB, ring 0, accessed. The selectors are those of the boot protocol.
constexpr uint64_t kCode64 = 0x00af9b000000ffff;
constexpr uint64_t kCode32 = 0x00cf9b000000ffff;
constexpr uint64_t kData = 0x00cf93000000ffff;
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr size_t kDescriptors = 4;

constexpr uint8_t kUnknownLoader = 0xff;
constexpr uint32_t kE820Ram = 1;
constexpr uint32_t kE820Reserved = 2;

// A file's part of guest memory, checked.
struct Placed {
  Gpa gpa;
  std::span<const std::byte> bytes;
};

absl::Status TooLittle(const LinuxBoot& boot, std::string_view what, uint64_t bytes) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s needs %u MiB of memory, and the guest has %u MiB: give it more --memory",
                      what, (bytes + (1 << 20) - 1) >> 20, boot.memory_bytes >> 20));
}

absl::Status CheckBoot(const LinuxBoot& boot) {
  if (boot.memory_bytes < kMinLinuxBytes || boot.memory_bytes > kMaxLinuxBytes ||
      (boot.memory_bytes & kPageMask) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%u bytes of memory for a Linux guest: it must be whole pages, from %u MiB "
                        "to %u MiB, above "
                        "which a PC has its interrupt controllers",
                        boot.memory_bytes, kMinLinuxBytes >> 20, kMaxLinuxBytes >> 20));
  }
  if (boot.command_line.size() >= pc::kMaxCommandLineBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a kernel command line of %u bytes: at most %u are taken; shorten --append",
                        boot.command_line.size(), pc::kMaxCommandLineBytes - 1));
  }
  return absl::OkStatus();
}

// The initrd as high as it may be, and above the kernel, which unpacks itself below.
absl::StatusOr<Placed> PlaceInitrd(const LinuxBoot& boot, Gpa kernel_end, Gpa highest_end) {
  const uint64_t end = std::min(boot.memory_bytes, highest_end.value) & ~kPageMask;
  const uint64_t bytes = (boot.initrd.size() + kPageMask) & ~kPageMask;
  if (bytes > end || end - bytes < kernel_end.value) {
    return TooLittle(boot, "the kernel with its initrd", kernel_end.value + bytes);
  }
  return Placed{.gpa = {end - bytes}, .bytes = boot.initrd};
}

absl::Status WritePageTables(GuestWriter write) {
  std::array<uint64_t, (2 + kDirectories) * kEntries> tables{};
  const auto gpa_of = [](uint64_t table) { return (pc::kPageTables + table * kPageSize).value; };
  tables[0] = gpa_of(1) | kTableBits;
  for (uint64_t i = 0; i < kDirectories; ++i) tables[kEntries + i] = gpa_of(2 + i) | kTableBits;
  for (uint64_t i = 0; i < kDirectories * kEntries; ++i) {
    tables[2 * kEntries + i] = i * kLargePage | kLeafBits;
  }
  return write(pc::kPageTables, std::as_bytes(std::span(tables)));
}

absl::Status WriteGdt(LinuxEntry entry, GuestWriter write) {
  const std::array<uint64_t, kDescriptors> gdt = {
      0, 0, entry == LinuxEntry::k64Bit ? kCode64 : kCode32, kData};
  return write(pc::kGdt, std::as_bytes(std::span(gdt)));
}

// What both protocols have: tables of ACPI, the command line, the initrd, the GDT.
absl::Status WriteCommon(const LinuxBoot& boot, LinuxEntry entry, const Placed& initrd,
                         GuestWriter write) {
  const std::vector<std::byte> acpi = MakeAcpiTables(pc::kAcpiTables, boot.vcpus, Dsdt());
  if (absl::Status status = write(pc::kAcpiTables, acpi); !status.ok()) return status;
  const std::string& line = boot.command_line;
  absl::Status status =
      write(pc::kCommandLine, std::as_bytes(std::span(line.c_str(), line.size() + 1)));
  if (!status.ok()) return status;
  if (!initrd.bytes.empty()) {
    if (status = write(initrd.gpa, initrd.bytes); !status.ok()) return status;
  }
  return WriteGdt(entry, write);
}

std::array<std::byte, sizeof(boot_params)> MakeBootParams(const LinuxBoot& boot,
                                                          const BzImage& image,
                                                          const Placed& initrd) {
  boot_params params;
  std::memset(&params, 0, sizeof(params));
  std::memcpy(&params.hdr, image.header.data(), std::min(image.header.size(), sizeof(params.hdr)));
  params.hdr.type_of_loader = kUnknownLoader;
  params.hdr.code32_start = static_cast<uint32_t>(image.load_at.value);
  params.hdr.cmd_line_ptr = static_cast<uint32_t>(pc::kCommandLine.value);
  params.hdr.ramdisk_image = initrd.bytes.empty() ? 0 : static_cast<uint32_t>(initrd.gpa.value);
  params.hdr.ramdisk_size = static_cast<uint32_t>(initrd.bytes.size());
  params.acpi_rsdp_addr = pc::kAcpiTables.value;
  for (const MemoryRange& range : MemoryMapOf(boot.memory_bytes)) {
    boot_e820_entry& entry = params.e820_table[params.e820_entries++];
    entry.addr = range.gpa.value;
    entry.size = range.bytes;
    entry.type = range.ram ? kE820Ram : kE820Reserved;
  }
  std::array<std::byte, sizeof(params)> bytes;
  std::memcpy(bytes.data(), &params, sizeof(params));
  return bytes;
}

absl::StatusOr<LinuxStart> LoadBzImage(const LinuxBoot& boot, GuestWriter write) {
  const absl::StatusOr<BzImage> image = ParseBzImage(boot.kernel);
  if (!image.ok()) return image.status();
  if (boot.command_line.size() > image->command_line_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a command line of %u bytes: this kernel takes at most %u; shorten --append",
        boot.command_line.size(), image->command_line_bytes));
  }
  const uint64_t kernel_bytes = std::max<uint64_t>(image->kernel.size(), image->needs_bytes);
  if (image->load_at < pc::kHighRam || image->load_at.value > kMaxLinuxBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the kernel wants to be loaded at gpa %#x; only [%#x, %#x) is open to it",
                        image->load_at.value, pc::kHighRam.value, kMaxLinuxBytes));
  }
  const Gpa kernel_end = image->load_at + kernel_bytes;
  if (kernel_end.value > boot.memory_bytes) return TooLittle(boot, "the kernel", kernel_end.value);
  const absl::StatusOr<Placed> initrd = PlaceInitrd(boot, kernel_end, image->initrd_end);
  if (!initrd.ok()) return initrd.status();

  absl::Status status = write(image->load_at, image->kernel);
  if (!status.ok()) return status;
  if (status = WriteCommon(boot, LinuxEntry::k64Bit, *initrd, write); !status.ok()) return status;
  if (status = WritePageTables(write); !status.ok()) return status;
  status = write(pc::kBootParams, MakeBootParams(boot, *image, *initrd));
  if (!status.ok()) return status;
  return LinuxStart{.entry = LinuxEntry::k64Bit,
                    .code = image->load_at + BzImage::kEntry64,
                    .information = pc::kBootParams};
}

// The end of what the segments of an ELF file occupy.
absl::StatusOr<Gpa> EndOfElf(const LinuxBoot& boot) {
  Gpa end = pc::kHighRam;
  const absl::StatusOr<Gpa> entry = LoadElf(boot.kernel, {pc::kHighRam, {boot.memory_bytes}},
                                            [&end](Gpa gpa, std::span<const std::byte> bytes) {
                                              end = std::max(end, gpa + bytes.size());
                                              return absl::OkStatus();
                                            });
  if (!entry.ok()) return entry.status();
  return end;
}

absl::StatusOr<LinuxStart> LoadPvh(const LinuxBoot& boot, GuestWriter write) {
  const absl::StatusOr<Gpa> entry = FindPvhEntry(boot.kernel);
  if (!entry.ok()) return entry.status();
  const absl::StatusOr<Gpa> kernel_end = EndOfElf(boot);
  if (!kernel_end.ok()) return kernel_end.status();
  if (*entry < pc::kHighRam || *entry >= *kernel_end) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "not a kernel that can be started: its PVH entry %#x lies outside of [%#x, %#x), which it "
        "loads",
        entry->value, pc::kHighRam.value, kernel_end->value));
  }
  const absl::StatusOr<Placed> initrd = PlaceInitrd(boot, *kernel_end, {kMaxLinuxBytes});
  if (!initrd.ok()) return initrd.status();

  const absl::StatusOr<Gpa> loaded =
      LoadElf(boot.kernel, {pc::kHighRam, {boot.memory_bytes}}, write);
  if (!loaded.ok()) return loaded.status();
  absl::Status status = WriteCommon(boot, LinuxEntry::kPvh, *initrd, write);
  if (!status.ok()) return status;
  const PvhStartInfo info{.command_line = pc::kCommandLine,
                          .acpi = pc::kAcpiTables,
                          .initrd = {initrd->gpa, initrd->gpa + initrd->bytes.size()},
                          .memory = MemoryMapOf(boot.memory_bytes)};
  status = write(pc::kStartInfo, MakePvhStartInfo(pc::kStartInfo, info));
  if (!status.ok()) return status;
  return LinuxStart{.entry = LinuxEntry::kPvh, .code = *entry, .information = pc::kStartInfo};
}

kvm_segment Segment(uint16_t selector, bool code, bool long_mode) {
  kvm_segment segment{};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = code ? 11 : 3;  // accessed; execute and read, or read and write
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code && long_mode ? 1 : 0;
  segment.db = code && long_mode ? 0 : 1;
  return segment;
}

}  // namespace

bool LastConsoleIsHvc(std::string_view command_line) {
  constexpr std::string_view kConsole = "console=";
  bool hvc = false;
  while (!command_line.empty()) {
    const std::string_view word = command_line.substr(0, command_line.find(' '));
    if (word.starts_with(kConsole)) hvc = word.substr(kConsole.size()).starts_with("hvc");
    command_line.remove_prefix(std::min(word.size() + 1, command_line.size()));
  }
  return hvc;
}

std::vector<MemoryRange> MemoryMapOf(uint64_t memory_bytes) {
  return {{.gpa = {0}, .bytes = pc::kLowRamEnd.value, .ram = true},
          {.gpa = pc::kLowRamEnd, .bytes = pc::kHighRam - pc::kLowRamEnd, .ram = false},
          {.gpa = pc::kHighRam, .bytes = memory_bytes - pc::kHighRam.value, .ram = true}};
}

absl::StatusOr<LinuxStart> LoadLinux(const LinuxBoot& boot, GuestWriter write) {
  if (absl::Status status = CheckBoot(boot); !status.ok()) return status;
  return LooksLikeElf(boot.kernel) ? LoadPvh(boot, write) : LoadBzImage(boot, write);
}

absl::Status SetLinuxStartRegisters(Vcpu& vcpu, const LinuxStart& start) {
  absl::StatusOr<kvm_sregs> system = vcpu.GetSystemRegisters();
  if (!system.ok()) return system.status();
  const bool long_mode = start.entry == LinuxEntry::k64Bit;
  system->cs = Segment(kCodeSelector, /*code=*/true, long_mode);
  system->ds = system->es = system->fs = system->gs = system->ss =
      Segment(kDataSelector, /*code=*/false, long_mode);
  system->tr.type = 11;  // a busy TSS, which VT-x asks for
  system->tr.present = 1;
  system->tr.s = 0;
  system->tr.base = 0;
  system->tr.limit = 0x67;
  system->gdt.base = pc::kGdt.value;
  system->gdt.limit = kDescriptors * sizeof(uint64_t) - 1;
  system->idt.limit = 0;
  system->cr0 = 0x31;  // NE, ET, PE
  if (long_mode) {
    system->cr3 = pc::kPageTables.value;
    system->cr4 = 0x20;         // PAE
    system->cr0 |= 0x80000000;  // PG
    system->efer = 0x500;       // LMA, LME
  }
  if (absl::Status status = vcpu.SetSystemRegisters(*system); !status.ok()) return status;

  kvm_regs registers{};
  registers.rip = start.code.value;
  registers.rflags = 2;  // the bit that is always one; interrupts off
  (long_mode ? registers.rsi : registers.rbx) = start.information.value;
  return vcpu.SetRegisters(registers);
}

}  // namespace underfoot
