// The stage-2 entry: one 64-bit word. A visit reads it once, and it is changed only by
// compare-exchange.
//
//   63       52 51             12 11     6  5   4   3  2    0
//   | tag      | pfn             | 0      | D | A | W | kind |   leaf: a translation
//   |                    table address (64-byte aligned)| kind |   table: the next level
//   | tag      |                  0                    | kind |   claim of the owner `tag`
//
// An empty entry is the word 0. W grants writes, A is the accessed bit (young), D is the dirty bit.
// A leaf with a tag is being relaxed by that owner, and readers use it meanwhile as it is. The tag
// goes when the permission is granted, when its owner gives up, and when an unmap, a write
// protection or a split changes the leaf. The level of an entry is that of the table that contains
// it: level 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB.
//
// Thread safety: values.

#ifndef UNDERFOOT_MMU_STAGE2_PTE_H_
#define UNDERFOOT_MMU_STAGE2_PTE_H_

#include <bit>
#include <cstdint>

#include "mmu/base/types.h"
#include "mmu/readers/reader.h"

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

// The guest frames that four levels can translate: 48-bit guest physical addresses.
inline constexpr unsigned kGfnBits = kIndexBits * kLevels;
inline constexpr GfnRange kGuestFrames{{0}, {uint64_t{1} << kGfnBits}};

class Pte {
 public:
  enum class Kind : uint8_t { kEmpty = 0, kLeaf = 1, kTable = 2, kClaim = 3 };

  constexpr Pte() = default;
  constexpr explicit Pte(uint64_t word) : word_(word) {}

  // A fresh translation: young, clean, and writable if `granted` is kWrite.
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
  // Whether an access is granted and changes nothing: the leaf has its marks already. One comparison.
  constexpr bool GrantsUnchanged(Access access) const {
    constexpr uint64_t kRead = static_cast<uint64_t>(Kind::kLeaf) | kYoung;
    constexpr uint64_t kWrite = kRead | kWritable | kDirty;
    const uint64_t wanted = access == Access::kWrite ? kWrite : kRead;
    return (word_ & (wanted | kKindMask)) == wanted;
  }
  // After an access, as hardware marks it.
  constexpr Pte Used(Access access) const {
    return access == Access::kWrite ? Young().Dirty() : Young();
  }
  constexpr Pte Clean() const { return Pte(word_ & ~kDirty); }
  constexpr Pte WithPfn(Pfn pfn) const {
    return Pte((word_ & ~kPfnMask) | (pfn.value << kPfnShift & kPfnMask));
  }
  // Keeps D, because the page was written (I8). Drops the tag of an owner that is relaxing the
  // leaf.
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

#endif  // UNDERFOOT_MMU_STAGE2_PTE_H_
