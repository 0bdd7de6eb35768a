// The bias of a reader. A biased reader announces its sections by a plain store and not by an
// exchange. A thread that waits for readers looks at the slots of all of them, also of those whose
// sections do not overlap its range. The first one that finds a biased reader takes the bias away
// and compensates for the missing barriers with one membarrier. Such a wait is part of a Begin, a
// memslot update, a collection of dirty pages, or an operation of a pfn cache. Below, "Begin"
// stands for each of them.
//
//            a window of sections without a look        Begin           its membarrier is over
//   ANNOUNCED ---------------------------------> BIASED ------> LEAVING -----------------------+
//      ^  ^                                         | the reader ends                          |
//      |  +-----------------------------------------+                                          |
//      +---------------------------------------------------------------------------------------+
//
//   reader                                 Begin
//   slot := range | nonce, plain           empties the translation
//   biased? if not: slot.exchange, too     ANNOUNCED? if so: looks at the slots
//   translation valid?                     if not: LEAVING; membarrier; ANNOUNCED; looks at slots
//
// The reader checks its bias after the plain store. If a store is not yet visible when a membarrier
// ends, its section therefore finds that the bias is gone. For this reason a Begin may rely on
// ANNOUNCED, whichever Begin wrote it (P3, steps 1a and a1). LEAVING means that a Begin has taken
// the bias away and that no membarrier after this step is known to have ended.
//
// Thread safety: the owner of the line calls Held, EndWindow and GiveUp. Any thread calls Revoke
// and Revoked.
// Compare: the asymmetric barriers in membarrier(2).

#ifndef UNDERFOOT_MMU_READERS_READER_BIAS_H_
#define UNDERFOOT_MMU_READERS_READER_BIAS_H_

#include <atomic>
#include <cstdint>

#include "mmu/base/ordering.h"

namespace underfoot {

class ReaderBias {
 public:
  // The number of sections after which a reader without bias may take it. A membarrier costs as
  // much as thousands of exchanges, how many depends on the CPU (`./dev bench --only 14`). So with
  // a window of 2^16, readers that lose their bias as often as possible make invalidations pay less
  // than the readers save.
  static constexpr uint64_t kWindow = uint64_t{1} << 16;

  // Relaxed: the owner itself takes the bias. If this load misses that a Begin has taken the bias
  // away, the membarrier of that Begin orders the plain store before its look at the slots (see the
  // head of this file).
  bool Held() const { return (word_.load(kRelaxed) & kBiased) != 0; }

  // Called inside a section that was entered without the bias, at the end of a window. Takes the
  // bias if no Begin looked at this reader during the window.
  void EndWindow() {
    uint64_t word = word_.load(kRelaxed);
    if ((word & kLeaving) != 0) return;
    // If one of the exchanges below fails, a Begin changed the word at the same time. The next
    // window decides then.
    if ((word & kLookedAt) != 0) {
      // Relaxed: a hint.
      word_.compare_exchange_strong(word, word & ~kLookedAt, kRelaxed);
      return;
    }
    // Pairs with: Revoke. Without it: a Begin that found ANNOUNCED misses the section after this
    // one, and its reader finds the old translation valid.
    const uint64_t epoch = (word & ~(kEpoch - 1)) + kEpoch;
    word_.compare_exchange_strong(word, epoch | kBiased, kStoreLoad, kRelaxed);
  }

  // Called outside of sections, when the reader ends.
  void GiveUp() {
    uint64_t word = word_.load(kRelaxed);
    if ((word & kBiased) == 0) return;
    // Pairs with: Revoke. Without it: a Begin relies on the word and misses the last sections. If
    // the exchange fails, a Begin has just taken the bias away.
    word_.compare_exchange_strong(word, (word & ~kBiased) | kLookedAt, kRelease, kRelaxed);
  }

  // Returns 0 if the caller may look at the slots at once. Otherwise the caller must make a
  // membarrier and then call Revoked with the returned word.
  uint64_t Revoke() {
    for (;;) {
      // Pairs with: EndWindow, Revoked, GiveUp. Without it: see there.
      uint64_t word = word_.load(kStoreLoad);
      if ((word & kLeaving) != 0) return word;
      if ((word & kBiased) == 0) {
        // Relaxed, and a failure does not matter: this is a hint. It is written once in a window,
        // so that Begins do not take the cache line from its reader each time.
        if ((word & kLookedAt) == 0) {
          word_.compare_exchange_strong(word, word | kLookedAt, kRelaxed);
        }
        return 0;
      }
      // Relaxed: the membarrier orders it.
      const uint64_t leaving = (word & ~kBiased) | kLeaving;
      if (word_.compare_exchange_strong(word, leaving, kRelaxed)) return leaving;
    }
  }

  // Called after the membarrier that followed Revoke. The epoch in the word differs if the reader
  // has taken a new bias since then; the membarrier proves nothing about that bias, and the
  // exchange fails.
  void Revoked(uint64_t word) {
    // Pairs with: Revoke. Without it: a Begin that reads ANNOUNCED does not see the slots that the
    // membarrier made visible.
    word_.compare_exchange_strong(word, (word & ~kLeaving) | kLookedAt, kRelease, kRelaxed);
  }

 private:
  static constexpr uint64_t kBiased = 1;
  static constexpr uint64_t kLeaving = 2;
  static constexpr uint64_t kLookedAt = 4;  // by a Begin, since the window began
  static constexpr uint64_t kEpoch = 8;     // times that the bias was taken

  // Changed only by read-modify-writes, so that a thread that reads one change has also seen all
  // changes before it.
  std::atomic<uint64_t> word_{kLookedAt};
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_READERS_READER_BIAS_H_
