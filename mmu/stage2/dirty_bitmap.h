// The pages of a memslot that were written: one bit for each page, the lowest bit of a word first,
// in the layout of KVM_GET_DIRTY_LOG.
//
// Units: pages of 4 KiB, counted from the first page of the slot.
// Thread safety: a value.

#ifndef UNDERFOOT_MMU_STAGE2_DIRTY_BITMAP_H_
#define UNDERFOOT_MMU_STAGE2_DIRTY_BITMAP_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace underfoot {

class DirtyBitmap {
 public:
  static constexpr uint64_t kPagesPerWord = 64;
  static constexpr size_t WordsFor(uint64_t pages) {
    return static_cast<size_t>((pages + kPagesPerWord - 1) / kPagesPerWord);
  }

  explicit DirtyBitmap(std::vector<uint64_t> words) : words_(std::move(words)) {}

  const std::vector<uint64_t>& words() const { return words_; }

  // `page` counts from the first page of the slot. Returns false for a page beyond the end of the
  // slot.
  bool Contains(uint64_t page) const {
    return page / kPagesPerWord < words_.size() &&
           (words_[page / kPagesPerWord] >> page % kPagesPerWord & 1) != 0;
  }

  uint64_t count() const {
    uint64_t pages = 0;
    for (const uint64_t word : words_) pages += static_cast<uint64_t>(std::popcount(word));
    return pages;
  }

  // Calls `visit(page)` for each written page, in ascending order.
  template <class Visitor>
  void ForEach(const Visitor& visit) const {
    for (size_t i = 0; i < words_.size(); ++i) {
      for (uint64_t word = words_[i]; word != 0; word &= word - 1) {
        visit(i * kPagesPerWord + static_cast<uint64_t>(std::countr_zero(word)));
      }
    }
  }

 private:
  std::vector<uint64_t> words_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_STAGE2_DIRTY_BITMAP_H_
