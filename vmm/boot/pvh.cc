#include "vmm/boot/pvh.h"

#include <elf.h>

#include <cstring>
#include <optional>
#include <string_view>

#include "absl/strings/str_format.h"
#include "vmm/boot/image_bytes.h"

namespace underfoot {
namespace {

constexpr uint32_t kPhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr std::string_view kNoteOwner("Xen\0", 4);
constexpr uint64_t kNoteAlignment = 4;

constexpr uint32_t kMagic = 0x336ec578;  // "xEn3", the x with its highest bit set
constexpr uint32_t kVersion = 1;         // with a memory map
constexpr uint32_t kRam = 1;
constexpr uint32_t kReserved = 2;

struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t modules;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_ranges;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct Module {
  uint64_t gpa;
  uint64_t bytes;
  uint64_t command_line;
  uint64_t reserved;
};

struct MapEntry {
  uint64_t gpa;
  uint64_t bytes;
  uint32_t type;
  uint32_t reserved;
};

absl::Status NotPvh(std::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("not a kernel that can be started: %s; give a vmlinux that was built with "
                      "CONFIG_PVH=y, or a bzImage (vmlinuz)",
                      why));
}

uint64_t Padded(uint64_t bytes) {
  return (bytes + kNoteAlignment - 1) / kNoteAlignment * kNoteAlignment;
}

// nullopt: the notes have no entry point.
std::optional<Gpa> EntryIn(std::span<const std::byte> notes) {
  uint64_t at = 0;
  while (const auto note = ReadAt<Elf64_Nhdr>(notes, at)) {
    const uint64_t name = at + sizeof(*note);
    const uint64_t content = name + Padded(note->n_namesz);
    const uint64_t next = content + Padded(note->n_descsz);
    if (next > notes.size()) return std::nullopt;
    const bool ours = note->n_type == kPhys32Entry && note->n_namesz == kNoteOwner.size() &&
                      std::memcmp(notes.data() + name, kNoteOwner.data(), kNoteOwner.size()) == 0;
    if (ours && note->n_descsz == sizeof(uint32_t)) {
      return Gpa{*ReadAt<uint32_t>(notes, content)};
    }
    if (ours && note->n_descsz == sizeof(uint64_t)) {
      return Gpa{*ReadAt<uint64_t>(notes, content)};
    }
    at = next;
  }
  return std::nullopt;
}

}  // namespace

bool LooksLikeElf(std::span<const std::byte> file) {
  return file.size() >= SELFMAG && std::memcmp(file.data(), ELFMAG, SELFMAG) == 0;
}

absl::StatusOr<Gpa> FindPvhEntry(std::span<const std::byte> image) {
  const auto header = ReadAt<Elf64_Ehdr>(image, 0);
  if (!LooksLikeElf(image) || !header.has_value() || header->e_ident[EI_CLASS] != ELFCLASS64 ||
      header->e_phentsize != sizeof(Elf64_Phdr)) {
    return NotPvh("it is no 64-bit ELF file");
  }
  for (uint64_t i = 0; i < header->e_phnum && header->e_phoff < image.size(); ++i) {
    const auto program = ReadAt<Elf64_Phdr>(image, header->e_phoff + i * sizeof(Elf64_Phdr));
    if (!program.has_value()) break;
    if (program->p_type != PT_NOTE || program->p_offset > image.size() ||
        program->p_filesz > image.size() - program->p_offset) {
      continue;
    }
    if (const auto entry = EntryIn(image.subspan(program->p_offset, program->p_filesz))) {
      return *entry;
    }
  }
  return NotPvh("it has no note XEN_ELFNOTE_PHYS32_ENTRY");
}

std::vector<std::byte> MakePvhStartInfo(Gpa at, const PvhStartInfo& info) {
  const uint64_t modules = info.initrd.empty() ? 0 : 1;
  const uint64_t map_offset = sizeof(StartInfo) + modules * sizeof(Module);
  std::vector<std::byte> bytes(map_offset + info.memory.size() * sizeof(MapEntry));
  const StartInfo start{.magic = kMagic,
                        .version = kVersion,
                        .flags = 0,
                        .modules = static_cast<uint32_t>(modules),
                        .module_list = modules == 0 ? 0 : (at + sizeof(StartInfo)).value,
                        .command_line = info.command_line.value,
                        .rsdp = info.acpi.value,
                        .memory_map = (at + map_offset).value,
                        .memory_ranges = static_cast<uint32_t>(info.memory.size()),
                        .reserved = 0};
  std::memcpy(bytes.data(), &start, sizeof(start));
  if (modules != 0) {
    const Module module{.gpa = info.initrd.begin.value,
                        .bytes = info.initrd.size(),
                        .command_line = 0,
                        .reserved = 0};
    std::memcpy(&bytes[sizeof(StartInfo)], &module, sizeof(module));
  }
  for (size_t i = 0; i < info.memory.size(); ++i) {
    const MapEntry entry{.gpa = info.memory[i].gpa.value,
                         .bytes = info.memory[i].bytes,
                         .type = info.memory[i].ram ? kRam : kReserved,
                         .reserved = 0};
    std::memcpy(&bytes[map_offset + i * sizeof(entry)], &entry, sizeof(entry));
  }
  return bytes;
}

}  // namespace underfoot
