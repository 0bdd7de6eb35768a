// The host memory under the islands: real pages, whose words say what they are.
//
//   word 0        the frame of the page: changes when the page moves, inside a bracket
//   word 1 + t    written by thread t alone, in a section that may write
//
// All accesses are plain ones: what orders them is the protocol, so ThreadSanitizer is an oracle
// too.
//
// Thread safety: as the protocol orders it.

#ifndef UNDERFOOT_TESTS_ORACLE_MEMORY_H_
#define UNDERFOOT_TESTS_ORACLE_MEMORY_H_

#include <atomic>
#include <cstdint>

#include "mmu/types.h"

namespace underfoot::oracle {

inline constexpr unsigned kMaxThreads = 7;

// The words of one page, which lie in one cache line of it.
class PageWords {
 public:
  explicit PageWords(Hva page)
      : words_(static_cast<uint64_t*>(PointerOf(page)) + (page.value >> kPageShift) % 64 * 8) {}

  uint64_t Get(unsigned word) const {
    // The compiler must not keep a word of guest memory in a register over a wait.
    std::atomic_signal_fence(std::memory_order::seq_cst);
    return words_[word];
  }
  void Set(unsigned word, uint64_t value) {
    words_[word] = value;
    std::atomic_signal_fence(std::memory_order::seq_cst);
  }
  // Of what the threads have written.
  uint64_t Sum() const {
    uint64_t sum = 0;
    for (unsigned t = 0; t < kMaxThreads; ++t) sum += Get(1 + t);
    return sum;
  }

 private:
  uint64_t* words_;
};

class Memory {
 public:
  explicit Memory(uint64_t pages);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  Hva PageAt(uint64_t page) const { return base_ + page * kPageSize; }
  uint64_t IndexOf(Hva page) const { return (page - base_) >> kPageShift; }

 private:
  const uint64_t bytes_;
  Hva base_;
};

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_MEMORY_H_
