// Whether a reader announces its sections by a plain store (biased), and who pays instead: a Begin
// that looks at its slots first takes the bias away, with a membarrier.
//
//            a window of sections without a look        Begin           its membarrier is over
//   ANNOUNCED ---------------------------------> BIASED ------> LEAVING -----------------------+
//      ^  ^                                         | the reader ends                          |
//      |  +-----------------------------------------+                                          |
//      +---------------------------------------------------------------------------------------+
//
//   reader                                 Begin
//   slot := range | nonce, plain           translation cleared
//   biased? no: slot.exchange, as well     announced? yes: look at the slots
//   translation valid?                     no: LEAVING; membarrier; ANNOUNCED; look at the slots
//
// The reader asks for its bias after the store. So a store that is not yet visible when a
// membarrier ends belongs to a section that finds the bias gone, and a Begin may trust ANNOUNCED
// whoever wrote it (LOCKING.md, P3). LEAVING says that nobody's membarrier is known to be over.
//
// Thread safety: Held, EndWindow, GiveUp: the owner of the line. Revoke, Revoked: any thread.

#ifndef UNDERFOOT_MMU_READER_BIAS_H_
#define UNDERFOOT_MMU_READER_BIAS_H_

#include <atomic>
#include <cstdint>

#include "mmu/mutant.h"
#include "mmu/ordering.h"

namespace underfoot {

class ReaderBias {
 public:
  // Sections between two questions whether to take the bias. A membarrier costs as much as 2^11
  // exchanges: with a window of 2^16, readers that lose their bias as often as they can make
  // invalidations pay 3 % of what the readers save.
  static constexpr uint64_t kWindow = uint64_t{1} << 16;

  // Relaxed: taken by the owner itself; for the way back see Revoked.
  bool Held() const { return (word_.load(kRelaxed) & kBiased) != 0; }

  // In a section that was entered without the bias. No Begin looked in the whole window: take it.
  void EndWindow() {
    uint64_t word = word_.load(kRelaxed);
    if ((word & kLeaving) != 0) return;
    // A step that fails met a Begin's: the next window decides.
    if ((word & kLookedAt) != 0 && !UNDERFOOT_MUTANT("bias-ignores-begins")) {
      // Relaxed: a hint.
      word_.compare_exchange_strong(word, word & ~kLookedAt, kRelaxed);
      return;
    }
    // Pairs with: Revoke. Without it: a Begin that found the reader announced misses the section
    // after this, whose reader finds the old translation valid.
    const uint64_t epoch =
        (word & ~(kEpoch - 1)) + (UNDERFOOT_MUTANT("bias-keeps-its-epoch") ? 0 : kEpoch);
    word_.compare_exchange_strong(word, epoch | kBiased, kStoreLoad, kRelaxed);
  }

  // Outside of sections.
  void GiveUp() {
    uint64_t word = word_.load(kRelaxed);
    if ((word & kBiased) == 0 || UNDERFOOT_MUTANT("bias-outlives-its-reader")) return;
    // Pairs with: Revoke. Without it: a Begin trusts the word and misses the last sections. When it
    // fails, a Begin has taken the bias.
    word_.compare_exchange_strong(word, (word & ~kBiased) | kLookedAt, kRelease, kRelaxed);
  }

  // What Revoke found: 0, the slots may be looked at, or the word for Revoked.
  uint64_t Revoke() {
    for (;;) {
      // Pairs with: EndWindow, Revoked, GiveUp. Without it: see there.
      uint64_t word = word_.load(kStoreLoad);
      if ((word & kLeaving) != 0 && !UNDERFOOT_MUTANT("leaving-is-trusted")) return word;
      if ((word & kBiased) == 0) {
        // Relaxed, and it may fail: a hint. Once in a window, so that Begins do not take the line
        // from its reader each time.
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

  // After a membarrier that followed Revoke. The epoch tells when the reader has taken a new bias
  // since, for which the membarrier says nothing.
  void Revoked(uint64_t word) {
    if (UNDERFOOT_MUTANT("bias-leaves-for-ever")) return;
    // Pairs with: Revoke. Without it: who trusts the word does not see what the membarrier showed.
    word_.compare_exchange_strong(word, (word & ~kLeaving) | kLookedAt, kRelease, kRelaxed);
  }

 private:
  static constexpr uint64_t kBiased = 1;
  static constexpr uint64_t kLeaving = 2;
  static constexpr uint64_t kLookedAt = 4;  // by a Begin, since the window began
  static constexpr uint64_t kEpoch = 8;     // times that the bias was taken

  // Only ever changed by read-modify-writes, so that who reads a step has seen those before it.
  std::atomic<uint64_t> word_{kLookedAt};
};

}  // namespace underfoot

#endif  // UNDERFOOT_MMU_READER_BIAS_H_
