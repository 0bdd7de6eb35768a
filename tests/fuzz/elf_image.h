// A guest image to mutate: one made here, small and valid, so that every field has a known place.

#ifndef UNDERFOOT_TESTS_FUZZ_ELF_IMAGE_H_
#define UNDERFOOT_TESTS_FUZZ_ELF_IMAGE_H_

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "vmm/boot/loader.h"

namespace underfoot::testing {

inline constexpr GpaRange kOpenRange{{0x200000}, {0x400000}};

// Of a static executable, whose program headers follow it at once.
inline Elf64_Ehdr ElfHeader(uint64_t entry, uint16_t program_headers) {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = entry;
  header.e_phoff = sizeof(Elf64_Ehdr);
  header.e_ehsize = sizeof(Elf64_Ehdr);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = program_headers;
  return header;
}

// Header, two program headers (code with the entry; data with a zeroed tail), their bytes.
class ElfImage {
 public:
  static constexpr uint64_t kCode = 0x200000;
  static constexpr uint64_t kData = 0x210000;
  static constexpr uint64_t kCodeBytes = 64;
  static constexpr uint64_t kDataBytes = 32;
  static constexpr uint64_t kDataMemory = 0x3000;

  ElfImage() {
    header = ElfHeader(kCode + 16, 2);
    const uint64_t contents = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
    code = Load(contents, kCode, kCodeBytes, kCodeBytes);
    data = Load(contents + kCodeBytes, kData, kDataBytes, kDataMemory);
  }

  std::vector<std::byte> Bytes() const {
    std::vector<std::byte> bytes;
    Append(bytes, &header, sizeof(header));
    Append(bytes, &code, sizeof(code));
    Append(bytes, &data, sizeof(data));
    bytes.insert(bytes.end(), kCodeBytes, std::byte{0xc0});
    bytes.insert(bytes.end(), kDataBytes, std::byte{0xda});
    return bytes;
  }

  Elf64_Ehdr header{};
  Elf64_Phdr code{};
  Elf64_Phdr data{};

 private:
  static Elf64_Phdr Load(uint64_t offset, uint64_t address, uint64_t in_file, uint64_t in_memory) {
    Elf64_Phdr program{};
    program.p_type = PT_LOAD;
    program.p_offset = offset;
    program.p_vaddr = program.p_paddr = address;
    program.p_filesz = in_file;
    program.p_memsz = in_memory;
    return program;
  }
  static void Append(std::vector<std::byte>& bytes, const void* from, size_t size) {
    const auto* first = static_cast<const std::byte*>(from);
    bytes.insert(bytes.end(), first, first + size);
  }
};

// Guest memory as large as what is open to the loader; a write outside of it is a bug and noted.
class LoadedMemory {
 public:
  absl::Status Write(Gpa gpa, std::span<const std::byte> bytes) {
    ++writes;
    if (gpa < kOpenRange.begin || gpa > kOpenRange.end || bytes.size() > kOpenRange.end - gpa) {
      outside = true;
      return absl::OkStatus();
    }
    if (memory.empty()) memory.resize(kOpenRange.size(), std::byte{0xee});
    std::memcpy(memory.data() + (gpa - kOpenRange.begin), bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  std::byte At(uint64_t gpa) const { return memory[gpa - kOpenRange.begin.value]; }

  std::vector<std::byte> memory;
  int writes = 0;
  bool outside = false;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_FUZZ_ELF_IMAGE_H_
