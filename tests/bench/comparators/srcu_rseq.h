// Reader protection as SRCU's, without a locked instruction: a reader increments a counter of its
// CPU when it enters and another one when it leaves. Each increment is a restartable sequence of
// rseq(2): if the thread is preempted or migrated before it has incremented, the kernel sends it
// back to the beginning. So the counter always belongs to the CPU that increments it, and an
// increment is one plain instruction.
//
// There are two phases of counters. Synchronize makes new readers count in the other phase, and
// then waits until each reader of the old one has left:
//
//   reader                                     Synchronize
//   loads the phase, increments entered        makes the other phase the current one
//   loads the translation                      membarrier that restarts sequences
//   increments left, of its own phase          waits until left == entered in the old phase
//
// The membarrier stands for the barrier that a reader does not execute: a reader either has
// incremented before it, and Synchronize counts that reader, or it loads the translation after it,
// and sees what the caller of Synchronize wrote before. SRCU in the kernel waits for both phases,
// since one of its readers may load the phase, be preempted, and increment the old phase long
// afterwards. Here the phase is loaded inside of the sequence. The membarrier restarts a reader
// that is between the two, and the reader then loads the new phase. So one phase is enough.
//
// Thread safety: Enter and Leave from any thread, which may move to another CPU between the two;
// Synchronize from one thread.
// After: kernel/rcu/srcutree.c in Linux, and librseq.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_SRCU_RSEQ_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_SRCU_RSEQ_H_

#include <sys/rseq.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/comparators/protected_word.h"

namespace underfoot::bench {

class SrcuRseq {
 public:
  // Why this process cannot have one; empty if it can.
  static std::string UnavailableReason();

  // Aborts if there is a reason.
  SrcuRseq();

  // Returns what Leave takes.
  [[gnu::always_inline]] uint64_t Enter() { return IncrementAt(phase_); }
  [[gnu::always_inline]] void Leave(uint64_t phase) {
    const std::atomic<uint64_t> offset{phase + offsetof(Counters::Phase, left)};
    static_cast<void>(IncrementAt(offset));
  }

  // Returns when each reader that had entered before the call has left.
  void Synchronize();

  // How often a reader has entered. Exact while no thread is in Enter.
  uint64_t Entries() const;

 private:
  // Of one CPU. The threads that run there write it, and Synchronize reads it.
  struct alignas(64) Counters {
    struct Phase {
      std::atomic<uint64_t> entered{0};
      std::atomic<uint64_t> left{0};
    };
    Phase phases[2];
  };

  // Increments the counter at an offset in the Counters of this CPU; the offset is loaded inside of
  // the sequence. Returns the offset.
  [[gnu::always_inline]] uint64_t IncrementAt(const std::atomic<uint64_t>& offset) {
    static_assert(sizeof(Counters) == 64);
    uint64_t at;
    uint64_t loaded;
    // 3: describes the sequence from 1 to 2 and its abort handler, 4, before which the kernel expects
    // the signature. 5: announces the sequence in the area that glibc has registered.
    asm volatile(
        ".pushsection __rseq_cs, \"aw\"\n\t"
        ".balign 32\n"
        "3:\n\t"
        ".long 0, 0\n\t"
        ".quad 1f, 2f - 1f, 4f\n\t"
        ".popsection\n"
        "5:\n\t"
        "leaq 3b(%%rip), %[at]\n\t"
        "movq %[at], %%fs:%c[announced](%[area])\n"
        "1:\n\t"
        "movq %[offset], %[loaded]\n\t"
        "movl %%fs:%c[cpu](%[area]), %k[at]\n\t"
        "shlq $6, %[at]\n\t"
        "addq %[loaded], %[at]\n\t"
        "incq (%[counters], %[at])\n"
        "2:\n\t"
        ".pushsection __rseq_failure, \"ax\"\n\t"
        ".byte 0x0f, 0xb9, 0x3d\n\t"  // with the signature, an instruction that is never executed
        ".long %c[signature]\n"
        "4:\n\t"
        "jmp 5b\n\t"
        ".popsection"
        : [at] "=&r"(at), [loaded] "=&r"(loaded)
        : [area] "r"(__rseq_offset), [counters] "r"(counters_.data()), [offset] "m"(offset),
          [announced] "i"(offsetof(struct rseq, rseq_cs)), [cpu] "i"(offsetof(struct rseq, cpu_id)),
          [signature] "i"(RSEQ_SIG)
        : "memory", "cc");
    return loaded;
  }

  uint64_t SumOf(std::atomic<uint64_t> Counters::Phase::*counter, size_t phase) const;

  // The offset in Counters of the phase in which new readers count.
  alignas(64) std::atomic<uint64_t> phase_{0};
  // By number of CPU.
  alignas(64) std::vector<Counters> counters_;
};

// One translation under it: see protected_word.h.
class SrcuRseqWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    const uint64_t phase = srcu_.Enter();
    const bool valid = word_.valid();
    if (valid) use();
    srcu_.Leave(phase);
    return valid;
  }
  void Invalidate() {
    word_.SetValid(false);
    srcu_.Synchronize();
  }
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  SrcuRseq srcu_;
  Word word_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_SRCU_RSEQ_H_
