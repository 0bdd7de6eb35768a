// The stage-2 entry: one 64-bit word, read once per visit and changed by compare-exchange only.
//
//   63       52 51             12 11     6  5   4   3  2    0
//   | tag      | pfn             | 0      | D | A | W | kind |   leaf: a translation
//   |                    table address (64-byte aligned)| kind |   table: the next level
//   | tag      |                  0                    | kind |   claim: a locked entry, owned by
//   tag
//
// An empty entry is the word 0. A leaf with a tag is being relaxed by that owner and is otherwise
// usable as it stands; the tag goes when the permission is granted or an invalidation steals it. W
// grants writes, A is young, D is dirty. The level is that of the table the entry is in: 0 = 4 KiB,
// 1 = 2 MiB, 2 = 1 GiB.
//
// Thread safety: values.

#ifndef UNDERFOOT_MMU_PTE_H_
#define UNDERFOOT_MMU_PTE_H_

#include <bit>
#include <cstdint>

#include "mmu/reader.h"
#include "mmu/types.h"

namespace underfoot {

struct Table;

inline constexpr unsigned kLevels = 4;
inline constexpr unsigned kMaxLeafLevel = 2;
inline constexpr unsigned kIndexBits = 9;
inline constexpr unsigned kEntries = 1u << kIndexBits;

constexpr uint64_t PagesAt(unsigned level) { return uint64_t{1} << (kIndexBits * level); }
constexpr unsigned IndexOf(Gfn gfn, unsigned level) {
  return static_cast<unsigned>(gfn.value >> (kIndexBits * level)) & (kEntries - 1);
}
constexpr GfnRange EntryRange(Gfn gfn, unsigned level) {
  const Gfn begin{gfn.value & ~(PagesAt(level) - 1)};
  return {begin, begin + PagesAt(level)};
}

// All that four levels translate: 48-bit guest physical addresses.
inline constexpr unsigned kGfnBits = kIndexBits * kLevels;
inline constexpr GfnRange kGuestFrames{{0}, {uint64_t{1} << kGfnBits}};

class Pte {
 public:
  enum class Kind : uint8_t { kEmpty = 0, kLeaf = 1, kTable = 2, kClaim = 3 };

  constexpr Pte() = default;
  constexpr explicit Pte(uint64_t word) : word_(word) {}

  // A fresh translation: young, clean, and writable as `granted` says.
  static constexpr Pte Leaf(Pfn pfn, Access granted) {
    return Pte(static_cast<uint64_t>(Kind::kLeaf) | (pfn.value << kPfnShift & kPfnMask) | kYoung |
               (granted == Access::kWrite ? kWritable : 0));
  }
  static constexpr Pte Claim(OwnerTag tag) {
    return Pte(static_cast<uint64_t>(Kind::kClaim) | uint64_t{tag} << kTagShift);
  }
  static Pte ToTable(const Table* table) {
    return Pte(static_cast<uint64_t>(Kind::kTable) | std::bit_cast<uint64_t>(table));
  }

  friend constexpr bool operator==(Pte, Pte) = default;
  constexpr uint64_t word() const { return word_; }
  constexpr Kind kind() const { return static_cast<Kind>(word_ & kKindMask); }
  constexpr bool empty() const { return word_ == 0; }
  constexpr bool is_leaf() const { return kind() == Kind::kLeaf; }
  constexpr bool is_table() const { return kind() == Kind::kTable; }
  constexpr bool is_claim() const { return kind() == Kind::kClaim; }

  Table* table() const { return std::bit_cast<Table*>(word_ & ~kKindMask); }
  constexpr OwnerTag tag() const { return static_cast<OwnerTag>(word_ >> kTagShift); }

  constexpr Pfn pfn() const { return {(word_ & kPfnMask) >> kPfnShift}; }
  constexpr bool writable() const { return (word_ & kWritable) != 0; }
  constexpr bool young() const { return (word_ & kYoung) != 0; }
  constexpr bool dirty() const { return (word_ & kDirty) != 0; }
  constexpr bool Grants(Access access) const {
    return is_leaf() && (access == Access::kRead || writable());
  }

  constexpr Pte WithTag(OwnerTag tag) const {
    return Pte((word_ & ~kTagMask) | uint64_t{tag} << kTagShift);
  }
  constexpr Pte Young() const { return Pte(word_ | kYoung); }
  constexpr Pte Old() const { return Pte(word_ & ~kYoung); }
  constexpr Pte Dirty() const { return Pte(word_ | kDirty); }
  constexpr Pte Clean() const { return Pte(word_ & ~kDirty); }
  constexpr Pte WithPfn(Pfn pfn) const {
    return Pte((word_ & ~kPfnMask) | (pfn.value << kPfnShift & kPfnMask));
  }
  // Keeps D: a page that was written stays written (I8). Drops a relaxing owner's tag.
  constexpr Pte ReadOnly() const { return Pte(word_ & ~(kWritable | kTagMask)); }

 private:
  static constexpr uint64_t kKindMask = 7;
  static constexpr uint64_t kWritable = 1u << 3;
  static constexpr uint64_t kYoung = 1u << 4;
  static constexpr uint64_t kDirty = 1u << 5;
  static constexpr unsigned kPfnShift = 12;
  static constexpr unsigned kPfnBits = 40;
  static constexpr uint64_t kPfnMask = ((uint64_t{1} << kPfnBits) - 1) << kPfnShift;
  static constexpr unsigned kTagShift = kPfnShift + kPfnBits;
  static constexpr uint64_t kTagMask = uint64_t{kMaxOwnerTag} << kTagShift;

  uint64_t word_ = 0;
};

static_assert(sizeof(Pte) == sizeof(uint64_t));
static_assert(Pte::Leaf({0x12345}, Access::kRead).word() == 0x12345011);
static_assert(Pte::Leaf({0x12345}, Access::kWrite).Dirty().word() == 0x12345039);
static_assert(Pte::Claim(kMaxOwnerTag).word() == 0xfff0000000000003);

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_PTE_H_
