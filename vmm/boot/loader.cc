#include "vmm/boot/loader.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/boot/image_bytes.h"

namespace underfoot {
namespace {

// More than any linker writes; a hostile image with a huge count must not keep the loader busy.
constexpr size_t kMaxProgramHeaders = 64;

struct Segment {
  GpaRange memory;                      // the guest memory that it occupies
  std::span<const std::byte> contents;  // the part that the file contains; zeroes follow
};

template <class... Args>
absl::Status Bad(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InvalidArgumentError(
      absl::StrCat("not a loadable guest image: ", absl::StrFormat(format, args...)));
}

std::string TypeName(uint16_t type) {
  switch (type) {
    case ET_REL:
      return "a relocatable object (ET_REL)";
    case ET_DYN:
      return "a shared object or position-independent executable (ET_DYN)";
    case ET_CORE:
      return "a core dump (ET_CORE)";
    default:
      return absl::StrFormat("an ELF file of type %u", type);
  }
}

absl::Status CheckHeader(const Elf64_Ehdr& header) {
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return Bad("no ELF magic at its start; build it as a static x86-64 ELF file");
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return Bad("ELF class %d, byte order %d; 64-bit little-endian is needed",
               int{header.e_ident[EI_CLASS]}, int{header.e_ident[EI_DATA]});
  }
  if (header.e_ident[EI_VERSION] != EV_CURRENT || header.e_version != EV_CURRENT) {
    return Bad("ELF version %u, and only %u exists", header.e_version, uint32_t{EV_CURRENT});
  }
  if (header.e_machine != EM_X86_64) {
    return Bad("it is for machine %u; x86-64 (EM_X86_64, %u) is needed", header.e_machine,
               uint32_t{EM_X86_64});
  }
  if (header.e_type != ET_EXEC) {
    return Bad("it is %s; a static executable (ET_EXEC) is needed: link with -static -no-pie",
               TypeName(header.e_type));
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr)) {
    return Bad("program headers of %u bytes; %u expected", header.e_phentsize, sizeof(Elf64_Phdr));
  }
  if (header.e_phnum == 0 || header.e_phnum > kMaxProgramHeaders) {
    return Bad("%u program headers; 1 to %u are taken", header.e_phnum, kMaxProgramHeaders);
  }
  return absl::OkStatus();
}

absl::StatusOr<Segment> CheckSegment(std::span<const std::byte> image, size_t index,
                                     const Elf64_Phdr& program, GpaRange allowed) {
  if (program.p_filesz > program.p_memsz) {
    return Bad("segment %u has %#x bytes in the file, more than its %#x in memory", index,
               program.p_filesz, program.p_memsz);
  }
  if (program.p_offset > image.size() || program.p_filesz > image.size() - program.p_offset) {
    return Bad("segment %u needs file bytes %#x + %#x, and the image ends at %#x: truncated?",
               index, program.p_offset, program.p_filesz, image.size());
  }
  const Gpa begin{program.p_paddr};
  if (begin < allowed.begin || begin > allowed.end || program.p_memsz > allowed.end - begin) {
    return Bad("segment %u is for gpa %#x + %#x; only [%#x, %#x) is open to it", index, begin.value,
               program.p_memsz, allowed.begin.value, allowed.end.value);
  }
  return Segment{.memory = {begin, begin + program.p_memsz},
                 .contents = image.subspan(program.p_offset, program.p_filesz)};
}

// Returns all PT_LOAD segments of the image, after checking that none overlap.
absl::StatusOr<std::vector<Segment>> CheckSegments(std::span<const std::byte> image,
                                                   const Elf64_Ehdr& header, GpaRange allowed) {
  std::vector<Segment> segments;
  for (size_t i = 0; i < header.e_phnum; ++i) {
    const uint64_t before = i * sizeof(Elf64_Phdr);
    // e_phoff may have any value: near 2^64 the sum would wrap around into the image.
    if (header.e_phoff > image.size()) {
      return Bad("program headers at %#x, and the image ends at %#x: truncated?", header.e_phoff,
                 image.size());
    }
    const auto program = ReadAt<Elf64_Phdr>(image, header.e_phoff + before);
    if (!program) {
      return Bad("program header %u lies beyond the image's end at %#x: truncated?", i,
                 image.size());
    }
    if (program->p_type == PT_INTERP || program->p_type == PT_DYNAMIC) {
      return Bad("it is dynamically linked: link with -static -no-pie");
    }
    if (program->p_type != PT_LOAD || program->p_memsz == 0) continue;
    absl::StatusOr<Segment> segment = CheckSegment(image, i, *program, allowed);
    if (!segment.ok()) return segment.status();
    for (const Segment& other : segments) {
      if (other.memory.Overlaps(segment->memory)) {
        return Bad("segment %u at gpa %#x overlaps an earlier one", i, segment->memory.begin.value);
      }
    }
    segments.push_back(*segment);
  }
  if (segments.empty()) return Bad("it has no PT_LOAD segment");
  return segments;
}

absl::Status WriteSegment(const Segment& segment, GuestWriter write) {
  if (!segment.contents.empty()) {
    absl::Status status = write(segment.memory.begin, segment.contents);
    if (!status.ok()) return status;
  }
  static constexpr std::byte kZeroes[kPageSize]{};
  Gpa gpa = segment.memory.begin + segment.contents.size();
  while (gpa < segment.memory.end) {
    const uint64_t size = std::min<uint64_t>(kPageSize, segment.memory.end - gpa);
    absl::Status status = write(gpa, std::span(kZeroes, size));
    if (!status.ok()) return status;
    gpa += size;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Gpa> LoadElf(std::span<const std::byte> image, GpaRange allowed, GuestWriter write) {
  const auto header = ReadAt<Elf64_Ehdr>(image, 0);
  if (!header) {
    return Bad("%u bytes, less than the %u of an ELF header", image.size(), sizeof(Elf64_Ehdr));
  }
  if (absl::Status status = CheckHeader(*header); !status.ok()) return status;
  absl::StatusOr<std::vector<Segment>> segments = CheckSegments(image, *header, allowed);
  if (!segments.ok()) return segments.status();

  const Gpa entry{header->e_entry};
  const bool entry_loaded = std::any_of(segments->begin(), segments->end(), [&](const Segment& s) {
    return s.memory.begin <= entry && entry < s.memory.begin + s.contents.size();
  });
  if (!entry_loaded) {
    return Bad("its entry %#x lies in no byte that the file loads", entry.value);
  }
  for (const Segment& segment : *segments) {
    if (absl::Status status = WriteSegment(segment, write); !status.ok()) return status;
  }
  return entry;
}

absl::StatusOr<std::vector<std::byte>> ReadImageFile(const std::string& path, uint64_t limit) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("guest image ", path));
  struct stat status;
  if (fstat(fd.get(), &status) < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("guest image ", path));
  }
  if (!S_ISREG(status.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat("guest image ", path, " is not a regular file; name an ELF file"));
  }
  const uint64_t size = static_cast<uint64_t>(status.st_size);
  if (size > limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("guest image %s has %u bytes; at most %u are taken", path, size, limit));
  }
  std::vector<std::byte> image(size);
  size_t filled = 0;
  while (filled < image.size()) {
    const ssize_t got = read(fd.get(), image.data() + filled, image.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("read of guest image ", path));
    if (got == 0) break;  // the file has shrunk; the loader will report it as truncated
    filled += static_cast<size_t>(got);
  }
  image.resize(filled);
  return image;
}

absl::StatusOr<Gpa> LoadElfFile(const std::string& path, GpaRange allowed, GuestWriter write) {
  const absl::StatusOr<std::vector<std::byte>> image = ReadImageFile(path);
  if (!image.ok()) return image.status();
  absl::StatusOr<Gpa> entry = LoadElf(*image, allowed, write);
  if (entry.ok()) return entry;
  return absl::Status(entry.status().code(), absl::StrCat("guest image ", path, ": ",
                                                          std::string(entry.status().message())));
}

}  // namespace underfoot
