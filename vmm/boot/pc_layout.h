// Where a Linux guest finds what a PC would have: its memory below 1 MiB, the interrupt controllers,
// the ports, and the interrupts of the devices. vmm/boot writes these places, the machine and its
// devices serve them, and dsdt.asl names the same addresses for the guest (tests/boot/acpi_test.cc
// compares them).
//
//   0x000500  GDT of the start          0x00b000  page directories, 4 GiB
//   0x006000  PVH start information     0x020000  the kernel's command line
//   0x007000  boot_params               0x09fc00  end of low RAM
//   0x009000  page-map level 4          0x0e0000  ACPI tables
//   0x00a000  page-directory pointers   0x100000  high RAM, to the end of memory
//
// Thread safety: constants.

#ifndef UNDERFOOT_VMM_BOOT_PC_LAYOUT_H_
#define UNDERFOOT_VMM_BOOT_PC_LAYOUT_H_

#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/config/run_options.h"

namespace underfoot::pc {

inline constexpr Gpa kGdt{0x500};
inline constexpr Gpa kStartInfo{0x6000};
inline constexpr Gpa kBootParams{0x7000};
inline constexpr Gpa kPageTables{0x9000};
inline constexpr Gpa kCommandLine{0x20000};
inline constexpr uint64_t kMaxCommandLineBytes = 0x10000;  // with the zero at its end
inline constexpr Gpa kLowRamEnd{0x9fc00};
inline constexpr Gpa kAcpiTables{0xe0000};
inline constexpr Gpa kHighRam{0x100000};

inline constexpr uint32_t kIoApic = 0xfec00000;
static_assert(kMaxLinuxBytes <= kIoApic);
inline constexpr uint32_t kLocalApic = 0xfee00000;
inline constexpr unsigned kIoApicPins = 24;
// The four pages that KVM on VT-x needs for itself.
inline constexpr Gpa kPagesOfKvm{0xfffbc000};

// Global system interrupts, all of them edges.
inline constexpr uint32_t kSerialGsi = 4;
inline constexpr uint32_t kFirstVirtioGsi = 5;
inline constexpr uint32_t kVirtioSlots = 16;  // devices that the guest can find
static_assert(kFirstVirtioGsi + kVirtioSlots <= kIoApicPins);

inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kSleepStatusPort = 0x601;
inline constexpr uint16_t kResetPort = 0x602;
inline constexpr uint8_t kResetValue = 1;
// The type of sleep that is "off": the first element of \_S5 in dsdt.asl.
inline constexpr uint8_t kSleepTypeOff = 5;

// The word by which the kernel of a PC asks the firmware for a warm start, and its value then.
// kLinuxDefaults has the kernel ask for that after a panic, and only then.
inline constexpr Gpa kWarmStart{0x472};
inline constexpr uint16_t kWarmStartValue = 0x1234;
// Comes before what the operator adds. ACPI's reset register is the one reset that this machine has,
// and a kernel that waits after a panic would wait for ever. The last two spare the kernel the search
// for what this machine lacks, with an exit for each access: PCI's configuration space, and three
// more serial ports.
inline constexpr char kLinuxDefaults[] =
    "console=ttyS0 reboot=acpi,panic_warm panic=-1 pci=off 8250.nr_uarts=1";

}  // namespace underfoot::pc

#endif  // UNDERFOOT_VMM_BOOT_PC_LAYOUT_H_
