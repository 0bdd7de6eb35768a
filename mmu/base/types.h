// Strong types for the four address spaces of guest memory, and half-open ranges over them.
//
//   Gpa, Gfn   guest physical address (bytes) and guest frame number (pages of 4 KiB)
//   Hva        host virtual address (bytes) in the process that holds guest RAM
//   Pfn        page frame number of the host. Without CAP_SYS_ADMIN the process cannot read frame
//              numbers; the number of the hva page is then used instead
//
// Thread safety: values.

#ifndef UNDERFOOT_MMU_BASE_TYPES_H_
#define UNDERFOOT_MMU_BASE_TYPES_H_

#include <algorithm>
#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace underfoot {

inline constexpr unsigned kPageShift = 12;
inline constexpr uint64_t kPageSize = uint64_t{1} << kPageShift;
inline constexpr uint64_t kPageMask = kPageSize - 1;

// A 64-bit number of one address space. The difference of two is a plain number. Numbers of
// different spaces do not mix.
template <class Tag>
struct Address {
  uint64_t value = 0;

  friend constexpr auto operator<=>(Address, Address) = default;
  friend constexpr Address operator+(Address a, uint64_t n) { return {a.value + n}; }
  friend constexpr Address operator-(Address a, uint64_t n) { return {a.value - n}; }
  friend constexpr uint64_t operator-(Address a, Address b) { return a.value - b.value; }
  constexpr Address& operator+=(uint64_t n) {
    value += n;
    return *this;
  }
};

using Gpa = Address<struct GpaTag>;
using Gfn = Address<struct GfnTag>;
using Hva = Address<struct HvaTag>;
using Pfn = Address<struct PfnTag>;

constexpr Gfn GfnOf(Gpa gpa) { return {gpa.value >> kPageShift}; }
constexpr Gpa GpaOf(Gfn gfn) { return {gfn.value << kPageShift}; }
constexpr Hva PageOf(Hva hva) { return {hva.value & ~kPageMask}; }
constexpr uint64_t OffsetInPage(Gpa gpa) { return gpa.value & kPageMask; }
constexpr uint64_t OffsetInPage(Hva hva) { return hva.value & kPageMask; }

inline void* PointerOf(Hva hva) { return std::bit_cast<void*>(hva.value); }
inline Hva HvaOf(const void* pointer) { return {std::bit_cast<uint64_t>(pointer)}; }

// Half-open: [begin, end). Empty when begin == end.
template <class A>
struct Range {
  A begin;
  A end;

  friend constexpr bool operator==(const Range&, const Range&) = default;
  constexpr uint64_t size() const { return end - begin; }
  constexpr bool empty() const { return begin >= end; }
  constexpr bool Contains(A a) const { return begin <= a && a < end; }
  constexpr bool Contains(const Range& r) const { return begin <= r.begin && r.end <= end; }
  constexpr bool Overlaps(const Range& r) const { return begin < r.end && r.begin < end; }
  constexpr Range Intersect(const Range& r) const {
    const A low = std::max(begin, r.begin);
    return {low, std::max(low, std::min(end, r.end))};
  }
};

using GfnRange = Range<Gfn>;  // in pages
using HvaRange = Range<Hva>;  // in bytes

// The addresses at which the kernel maps user memory, unless the process asks for more than 47
// bits. No memslot and no cache may lie above: the words of range_word.h have no room for higher
// addresses.
inline constexpr HvaRange kUserMemory{{0}, {uint64_t{1} << 47}};

constexpr HvaRange PageRangeOf(Hva hva, uint64_t pages = 1) {
  return {PageOf(hva), PageOf(hva) + pages * kPageSize};
}

// The pages that `range` touches. Empty if `range` ends before it begins. The kernel passes [0, ~0)
// for "everything": an end in the last page of the address space, which no process can map, must
// not wrap to 0.
constexpr HvaRange RoundOutToPages(HvaRange range) {
  const Hva begin = PageOf(range.begin);
  const uint64_t end = std::min(range.end.value, ~kPageMask);
  return {begin, std::max(begin, Hva{(end + kPageMask) & ~kPageMask})};
}

// What an access needs, or what a translation grants. Write implies read.
enum class Access : uint8_t { kRead, kWrite };

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_BASE_TYPES_H_
