// The host memory under the islands: real pages whose words identify them.
//
//   word 0        the frame of the page; changes when the page moves, inside a bracket
//   word 1 + t    written only by thread t, in a section that may write
//
// All accesses are plain ones. Only the protocols order them, so ThreadSanitizer is an oracle too.
//
// Thread safety: as the protocols order the accesses.

#ifndef UNDERFOOT_TESTS_ORACLE_MEMORY_H_
#define UNDERFOOT_TESTS_ORACLE_MEMORY_H_

#include <atomic>
#include <cstdint>

#include "mmu/base/types.h"

namespace underfoot::oracle {

inline constexpr unsigned kMaxThreads = 7;

// The words of one page. They lie in one of its cache lines.
class PageWords {
 public:
  explicit PageWords(Hva page)
      : words_(static_cast<uint64_t*>(PointerOf(page)) + (page.value >> kPageShift) % 64 * 8) {}

  uint64_t Get(unsigned word) const {
    // A barrier for the compiler: it must not keep a word of guest memory in a register across a
    // wait.
    std::atomic_signal_fence(std::memory_order::seq_cst);
    return words_[word];
  }
  void Set(unsigned word, uint64_t value) {
    words_[word] = value;
    std::atomic_signal_fence(std::memory_order::seq_cst);
  }
  // The sum of the words that the threads have written.
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
