// Access to one guest page through stage-2: for bulk DMA and whatever is used too rarely for a pfn
// cache.
//
// Thread safety: any thread, each with its own Reader.
// Invariants: I1, I8 (dirty is set inside the section, before the first write), I11.

#ifndef UNDERFOOT_MMU_TRANSLATE_H_
#define UNDERFOOT_MMU_TRANSLATE_H_

#include <cstddef>
#include <utility>

#include "mmu/memslot.h"
#include "mmu/reader.h"
#include "mmu/stage2.h"
#include "mmu/types.h"

namespace underfoot {

// The bytes from data() to the end of the page may be used until this goes.
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

// Empty when stage-2 does not grant the access now: fault the page in (FaultHandler::FaultIn), try
// again.
TranslatedPage Translate(const MemslotTable& memslots, Stage2& stage2, Reader& reader, Gpa gpa,
                         Access access);

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_TRANSLATE_H_
