// The kind of host memory that backs guest RAM, and the size of its pages.
//
// Thread safety: values.

#ifndef UNDERFOOT_VMM_BASE_BACKING_H_
#define UNDERFOOT_VMM_BASE_BACKING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "mmu/base/types.h"

namespace underfoot {

enum class Backing : uint8_t {
  kAnon,   // private anonymous memory: the content of a dropped page is lost
  kMemfd,  // shared memfd: dropping a page table entry keeps the content, punching a hole loses it
};

constexpr std::string_view BackingName(Backing backing) {
  return backing == Backing::kAnon ? "anon" : "memfd";
}

enum class HugePages : uint8_t {
  kOff,  // the host uses pages of 4 KiB
  kThp,  // transparent huge pages: the host may make and break blocks of 2 MiB at any time
  k2M,   // hugetlb pages of 2 MiB, which the host never breaks
  k1G,   // hugetlb pages of 1 GiB
};

inline constexpr std::array<std::string_view, 4> kHugePagesNames = {"off", "thp", "2M", "1G"};

constexpr std::string_view HugePagesName(HugePages huge) {
  return kHugePagesNames[static_cast<size_t>(huge)];
}

constexpr std::optional<HugePages> FindHugePages(std::string_view name) {
  for (size_t i = 0; i < kHugePagesNames.size(); ++i) {
    if (kHugePagesNames[i] == name) return static_cast<HugePages>(i);
  }
  return std::nullopt;
}

// A block: what a huge page of 2 MiB covers.
inline constexpr uint64_t kBlockBytes = uint64_t{2} << 20;
inline constexpr uint64_t kGiantBytes = uint64_t{1} << 30;

// Memory is plugged and unplugged in blocks of this size, at multiples of it (virtio-mem).
inline constexpr uint64_t kHotplugBlockBytes = kBlockBytes;

constexpr bool IsHugetlb(HugePages huge) {
  return huge == HugePages::k2M || huge == HugePages::k1G;
}

// The smallest part of guest RAM that the host can bring in, discard, protect or move.
constexpr uint64_t HostPageBytes(HugePages huge) {
  if (huge == HugePages::k1G) return kGiantBytes;
  return huge == HugePages::k2M ? kBlockBytes : kPageSize;
}

// Guest RAM and its slots are cut at multiples of this, so that slots do not share a huge page.
constexpr uint64_t SlotGranule(HugePages huge) {
  return huge == HugePages::kThp ? kBlockBytes : HostPageBytes(huge);
}

// Empty, or why RAM of `bytes` cannot be made of such pages, with the remedy. RAM with pages of
// 1 GiB has parts that are whole pages only from 4 GiB on.
constexpr std::string_view RamSizeError(uint64_t bytes, HugePages huge) {
  if (huge == HugePages::k1G && (bytes % kGiantBytes != 0 || bytes < 4 * kGiantBytes)) {
    return "it must be a multiple of 1G and at least 4G; give such a size, or take --huge-pages 2M";
  }
  if (bytes % SlotGranule(huge) != 0) {
    return "it must be a multiple of 2M; give such a size, or take --huge-pages off";
  }
  return "";
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_BACKING_H_
