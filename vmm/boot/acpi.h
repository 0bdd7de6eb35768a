// The ACPI tables of a Linux guest: a hardware-reduced platform (ACPI 6.4, section 4.1), without
// timers, legacy devices or a system control interrupt.
//
//   RSDP -> XSDT -> FADT -> DSDT    sleep and reset registers; the devices, compiled from dsdt.asl
//                -> MADT            a local APIC for each vCPU, one I/O APIC
//
// Thread safety: functions without state.

#ifndef UNDERFOOT_VMM_BOOT_ACPI_H_
#define UNDERFOOT_VMM_BOOT_ACPI_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "mmu/base/types.h"

namespace underfoot {

// All tables, for `at`, where the RSDP stands. Local APIC ids are the indices of the vCPUs.
std::vector<std::byte> MakeAcpiTables(Gpa at, uint32_t vcpus, std::span<const std::byte> dsdt);

// dsdt.asl as iasl has compiled it.
std::span<const std::byte> Dsdt();

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BOOT_ACPI_H_
