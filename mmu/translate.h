// Access to one guest page through stage-2, for bulk DMA and for pages that are used too rarely for
// a pfn cache. Translate never faults a page in: if stage-2 has no leaf that grants the access, it
// returns an empty page.
//
// Thread safety: any thread, each with its own Reader. While a TranslatedPage is held, its thread
// is inside a section: see mmu/readers/reader.h.
// Invariants: I1, I8 (the dirty bit is set inside the section, before the first write), I11.
// Compare: kvm_vcpu_map in Linux, which finds the page by its memslot and not through stage-2.

#ifndef UNDERFOOT_MMU_TRANSLATE_H_
#define UNDERFOOT_MMU_TRANSLATE_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/base/range_word.h"
#include "mmu/base/types.h"
#include "mmu/memslot.h"
#include "mmu/readers/reader.h"
#include "mmu/stage2/stage2.h"

namespace underfoot {

// An open section on one page. The bytes from data() to the end of the page may be used until this
// object is destroyed.
class TranslatedPage {
 public:
  TranslatedPage() = default;
  TranslatedPage(Section section, Hva hva, Pfn pfn)
      : section_(std::move(section)), hva_(hva), pfn_(pfn) {}
  explicit operator bool() const { return section_.open(); }
  std::byte* data() const { return static_cast<std::byte*>(PointerOf(hva_)); }
  Hva hva() const { return hva_; }
  Pfn pfn() const { return pfn_; }

 private:
  Section section_;
  Hva hva_;
  Pfn pfn_;
};

// One section for many translations: the announcement is made once, for a range of host addresses.
//
// It is a reader of every translation of the range: a Begin over any of these pages waits for it. So
// the range is exact, and the owner keeps the section short: it contains a bounded number of copies and
// nothing else.
class RangeSection {
 public:
  static constexpr uint64_t kMaxPages = ReaderKey::kMaxPages;  // a longer range cannot be announced

  RangeSection(Reader& reader, HvaRange range)
      : range_(RoundOutToPages(range)), section_(reader, ReaderKey::Pack(range_)) {
    UNDERFOOT_CHECK(range_.size() <= kMaxPages * kPageSize, "a section over too many pages",
                    range_.begin.value, range_.size());
    section_.CountAsOther();
  }

  // The pages that are announced.
  const HvaRange& announced() const { return range_; }

 private:
  const HvaRange range_;
  Section section_;
};

// What a section does with bytes of one page.
struct PagePiece {
  Gpa gpa;
  Access access = Access::kRead;
  std::byte* data = nullptr;  // where the bytes are, from Translate until the section is left
};

// Looks `pieces` up in turn, and ends at the first one that stage-2 does not grant now, or that lies
// outside of the announced range. Returns the number of those before it. Their pages may be used
// until the section is left.
size_t Translate(const MemslotTable& memslots, Stage2& stage2, const RangeSection& section,
                 std::span<PagePiece> pieces);

// Marks pages for an access by other means than such pointers, a system call for instance. Returns the
// number of pages before the first one that stage-2 does not grant now, or that lies outside of the
// announced range or of the memslot of the first one.
uint64_t MarkUsed(const MemslotTable& memslots, Stage2& stage2, const RangeSection& section,
                  GfnRange gfns, Access access);

// Returns an empty page if stage-2 does not grant the access now. The caller then faults the page
// in (FaultHandler::FaultIn) and tries again.
TranslatedPage Translate(const MemslotTable& memslots, Stage2& stage2, Reader& reader, Gpa gpa,
                         Access access);

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_TRANSLATE_H_
