// Which of the threads that read userfaultfd may have read an event that is not applied yet.
//
//   a thread that reads        the kernel                     any thread
//   1  its word becomes odd
//   2  read()                  the caller of madvise goes on:
//                              its zap, the page is gone
//   3  applies the event                                      a  looks: the page is gone
//   4  its word becomes even                                  b  None()?
//
// The read is the acknowledgement: what it lets go on may be over before the reader has looked at
// the message. Therefore code that concludes something from the absence of a page looks first and
// calls None() second. If None() is true, each event that was read before the look has been applied
// by then: had its reader been between 1 and 4, step b would have found its word odd. In the other
// order the whole of 1, 2 and the zap would fit between the question and the look.
//
// A thread must not sleep between 1 and 4: a word that is odd while its owner sleeps shows nothing.
//
// Thread safety: any thread; each word is written by its owner alone.

#ifndef UNDERFOOT_VMM_EVIDENCE_EVENT_READS_H_
#define UNDERFOOT_VMM_EVIDENCE_EVENT_READS_H_

#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"

namespace underfoot {

// The most threads that read one userfaultfd.
inline constexpr unsigned kMostEventReaders = 8;

class EventReads {
 private:
  struct alignas(64) Word {  // a cache line of its own: each reader writes it for each message
    std::atomic<uint64_t> value{0};
  };

 public:
  // From before a read until its event is applied.
  class Scope {
   public:
    // kStoreLoad: the store must not be delayed behind the read.
    // Pairs with: None, Wait. Without it: a thread finds the page gone and this word still even.
    Scope(EventReads& reads, unsigned reader) : word_(&reads.words_[reader]) {
      UNDERFOOT_CHECK(reader < kMostEventReaders, "too many readers of userfaultfd", reader, 0);
      word_->value.fetch_add(1, kStoreLoad);
    }
    ~Scope() { End(); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    // Idempotent.
    // Release pairs with: None, Wait. Without it: a thread finds the word even and does not find
    // what the event has changed.
    void End() {
      if (word_ != nullptr) word_->value.fetch_add(1, kRelease);
      word_ = nullptr;
    }

   private:
    Word* word_;
  };

  EventReads() = default;
  EventReads(const EventReads&) = delete;
  EventReads& operator=(const EventReads&) = delete;

  // Whether no thread is in a Scope. Each word is loaded once, in any order: no event that was read
  // before the call can hide in a word that is loaded later.
  bool None() const {
    return std::none_of(words_.begin(), words_.end(),
                        [](const Word& word) { return word.value.load(kAcquire) % 2 != 0; });
  }
  // Returns when each Scope that was open at the call has ended.
  void Wait() const {
    for (const Word& word : words_) {
      const uint64_t seen = word.value.load(kAcquire);
      while (seen % 2 != 0 && word.value.load(kAcquire) == seen) sched_yield();
    }
  }

 private:
  std::array<Word, kMostEventReaders> words_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_EVIDENCE_EVENT_READS_H_
