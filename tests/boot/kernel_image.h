// Kernels to load: a bzImage and a vmlinux made here, small and valid, so that every field has a known
// place; and guest memory as a map of what was written to it.

#ifndef UNDERFOOT_TESTS_BOOT_KERNEL_IMAGE_H_
#define UNDERFOOT_TESTS_BOOT_KERNEL_IMAGE_H_

#include <asm/bootparam.h>
#include <elf.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "mmu/base/types.h"
#include "tests/fuzz/elf_image.h"

namespace underfoot::testing {

// RAM that starts as zeroes.
class FakeRam {
 public:
  explicit FakeRam(uint64_t bytes) : bytes_(bytes) {}

  absl::Status Write(Gpa gpa, std::span<const std::byte> bytes) {
    if (gpa.value > bytes_.size() || bytes.size() > bytes_.size() - gpa.value) {
      return absl::OutOfRangeError("beyond the end of RAM");
    }
    std::copy(bytes.begin(), bytes.end(), bytes_.begin() + static_cast<ptrdiff_t>(gpa.value));
    ++writes_;
    return absl::OkStatus();
  }

  template <class T>
  T Read(Gpa gpa) const {
    T value;
    std::memcpy(&value, &bytes_.at(gpa.value), sizeof(T));
    return value;
  }
  std::span<const std::byte> At(Gpa gpa, uint64_t bytes) const {
    return std::span(bytes_).subspan(gpa.value, bytes);
  }
  std::string Text(Gpa gpa) const { return reinterpret_cast<const char*>(&bytes_.at(gpa.value)); }
  int writes() const { return writes_; }

 private:
  std::vector<std::byte> bytes_;
  int writes_ = 0;
};

struct BzImageFile {
  static constexpr uint64_t kHeaderAt = 0x1f1;
  static constexpr uint64_t kKernelAt = 2 * 512;
  static constexpr uint64_t kKernelBytes = 4096;
  static constexpr uint8_t kJump = 0x6a;  // to the end of the header of protocol 2.15

  BzImageFile() {
    header.setup_sects = 1;
    header.syssize = kKernelBytes / 16;
    header.boot_flag = 0xaa55;
    header.jump = static_cast<uint16_t>(0xeb | kJump << 8);
    header.header = 0x53726448;
    header.version = 0x020f;
    header.loadflags = LOADED_HIGH;
    header.xloadflags = XLF_KERNEL_64;
    header.cmdline_size = 2047;
    header.initrd_addr_max = 0x7fffffff;
    header.pref_address = 0x1000000;
    header.init_size = 0x2000000;
    header.relocatable_kernel = 1;
  }

  std::vector<std::byte> Bytes() const {
    std::vector<std::byte> bytes(kKernelAt);
    std::memcpy(&bytes[kHeaderAt], &header, sizeof(header));
    for (uint64_t i = 0; i < kKernelBytes; ++i) bytes.push_back(std::byte(i * 7));
    return bytes;
  }

  setup_header header{};
};

struct VmlinuxFile {
  static constexpr uint64_t kCode = 0x1000000;
  static constexpr uint64_t kCodeBytes = 4096;
  static constexpr uint32_t kEntry = kCode + 0x40;

  std::vector<std::byte> Bytes() const {
    const Elf64_Ehdr header = ElfHeader(kCode, 2);
    const uint64_t contents = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr);
    Elf64_Phdr code{};
    code.p_type = PT_LOAD;
    code.p_offset = contents;
    code.p_vaddr = 0xffffffff81000000;
    code.p_paddr = kCode;
    code.p_filesz = kCodeBytes;
    code.p_memsz = kCodeBytes;
    struct {
      Elf64_Nhdr other_header{.n_namesz = 4, .n_descsz = 5, .n_type = 1};
      char other_name[4] = "GNU";
      char other[8] = {};
      Elf64_Nhdr header{.n_namesz = 4, .n_descsz = 4, .n_type = 18};
      char name[4] = "Xen";
      uint32_t entry = kEntry;
    } notes;
    notes.header.n_type = note_type;
    notes.entry = entry;
    Elf64_Phdr note{};
    note.p_type = PT_NOTE;
    note.p_offset = contents + kCodeBytes;
    note.p_filesz = sizeof(notes);
    std::vector<std::byte> bytes;
    const auto append = [&bytes](const auto& value) {
      const auto* const begin = reinterpret_cast<const std::byte*>(&value);
      bytes.insert(bytes.end(), begin, begin + sizeof(value));
    };
    append(header);
    append(code);
    append(note);
    for (uint64_t i = 0; i < kCodeBytes; ++i) bytes.push_back(std::byte(i * 3));
    append(notes);
    return bytes;
  }

  uint32_t note_type = 18;
  uint32_t entry = kEntry;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_BOOT_KERNEL_IMAGE_H_
