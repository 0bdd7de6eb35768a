#include "vmm/boot/bzimage.h"

#include <asm/bootparam.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "vmm/boot/image_bytes.h"

namespace underfoot {
namespace {

static_assert(offsetof(boot_params, hdr) == BzImage::kSetupHeaderOffset);

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kParagraphBytes = 16;
constexpr uint16_t kBootFlag = 0xaa55;
constexpr uint32_t kMagic = 0x53726448;  // "HdrS"
constexpr uint64_t kMagicOffset = 0x202;
// The header ends as many bytes after kMagicOffset as this byte says: it is the distance of a jump.
constexpr uint64_t kHeaderBytesOffset = 0x201;
// 2.12, of Linux 3.8: the first one whose xloadflags say that there is a 64-bit entry.
constexpr uint16_t kOldestProtocol = 0x020c;
// A kernel before setup_sects existed had this many.
constexpr uint8_t kDefaultSetupSectors = 4;

template <class... Args>
absl::Status Bad(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InvalidArgumentError(
      absl::StrCat("not a kernel that can be started: ", absl::StrFormat(format, args...)));
}

}  // namespace

bool LooksLikeBzImage(std::span<const std::byte> file) {
  return ReadAt<uint32_t>(file, kMagicOffset) == kMagic;
}

absl::StatusOr<BzImage> ParseBzImage(std::span<const std::byte> file) {
  constexpr uint64_t kEnd = BzImage::kSetupHeaderOffset + sizeof(setup_header);
  if (file.size() < kEnd) {
    return Bad("%u bytes, less than the %u of a bzImage's header", file.size(), kEnd);
  }
  setup_header header;
  std::memcpy(&header, &file[BzImage::kSetupHeaderOffset], sizeof(header));
  if (header.header != kMagic || header.boot_flag != kBootFlag) {
    return Bad("it has no boot header (HdrS); give a bzImage, which is vmlinuz of a distribution");
  }
  const auto protocol = static_cast<uint16_t>(header.version);
  if (protocol < kOldestProtocol) {
    return Bad("boot protocol %u.%02u; 2.12 or later is needed, which Linux has from 3.8 on",
               protocol >> 8, protocol & 0xff);
  }
  const auto extended_flags = static_cast<uint16_t>(header.xloadflags);
  if ((extended_flags & XLF_KERNEL_64) == 0) {
    return Bad("it is a 32-bit kernel (no XLF_KERNEL_64 in xloadflags %#x); give a 64-bit one",
               extended_flags);
  }
  if ((header.loadflags & LOADED_HIGH) == 0) {
    return Bad("it is for low memory (no LOADED_HIGH in loadflags %#x): a zImage; give a bzImage",
               unsigned{header.loadflags});
  }
  const uint64_t sectors = header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects;
  const uint64_t kernel_offset = (sectors + 1) * kSectorBytes;
  const uint64_t kernel_bytes = uint64_t{header.syssize} * kParagraphBytes;
  if (kernel_bytes <= BzImage::kEntry64 || kernel_offset > file.size() ||
      kernel_bytes > file.size() - kernel_offset) {
    return Bad(
        "its header announces %u bytes of kernel at %#x, and the file ends at %#x: truncated?",
        kernel_bytes, kernel_offset, file.size());
  }
  const uint64_t header_end = kMagicOffset + std::to_integer<uint64_t>(file[kHeaderBytesOffset]);
  if (header_end < kEnd - sizeof(uint32_t) || header_end > kernel_offset) {
    return Bad("its setup header ends at %#x; it must end between %#x and %#x", header_end, kEnd,
               kernel_offset);
  }
  if (header.init_size < kernel_bytes) {
    return Bad("it announces that %#x bytes of memory are enough for %#x bytes of kernel",
               uint32_t{header.init_size}, kernel_bytes);
  }
  return BzImage{
      .header = file.subspan(BzImage::kSetupHeaderOffset, header_end - BzImage::kSetupHeaderOffset),
      .kernel = file.subspan(kernel_offset, file.size() - kernel_offset),
      .load_at = {header.pref_address},
      .needs_bytes = header.init_size,
      .command_line_bytes = header.cmdline_size,
      .initrd_end = {uint64_t{header.initrd_addr_max} + 1}};
}

}  // namespace underfoot
