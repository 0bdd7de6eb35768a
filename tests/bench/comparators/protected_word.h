// The schemes of reader protection that mmu/readers/reader was chosen from, each around one
// translation: a state that says whether it is valid, and a word of data behind a pointer.
//
//   Section(use)  calls use() if the translation is valid, and returns whether it was. What use() reads
//                 and writes of the page is done before an invalidation returns
//   Read(index)   one access in a section: nullopt when the translation is not valid
//   Invalidate()  takes the validity away and returns when no reader uses the word any more
//   Validate()    gives it back
//   word()        what is protected
//
// Thread safety: Read and Section from any thread (SlotWord, EvenOddWord, AsymmetricWord: from one), against Invalidate and
// Validate from one other.

#ifndef UNDERFOOT_TESTS_BENCH_COMPARATORS_PROTECTED_WORD_H_
#define UNDERFOOT_TESTS_BENCH_COMPARATORS_PROTECTED_WORD_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "absl/synchronization/mutex.h"
#include "mmu/base/ordering.h"
#include "mmu/base/rcu.h"

namespace underfoot::bench {

// What all of them protect. The data is on a line of its own, as guest memory is.
class Word {
 public:
  bool valid() const { return valid_.load(kRelaxed) != 0; }
  uint64_t data(uint64_t index) const { return pointer_.load(kRelaxed)[index].load(kRelaxed); }
  void SetValid(bool valid) { valid_.store(valid ? 1 : 0, kRelaxed); }
  void SetData(uint64_t data) { data_.front().store(data, kRelaxed); }
  std::optional<uint64_t> DataIfValid(uint64_t index) const {
    return valid() ? std::optional(data(index)) : std::nullopt;
  }

  std::atomic<uint64_t>& state() { return valid_; }

 private:
  alignas(64) std::array<std::atomic<uint64_t>, 8> data_{};
  alignas(64) std::atomic<uint64_t> valid_{1};
  std::atomic<std::atomic<uint64_t>*> pointer_{data_.data()};
};

template <class Scheme>
[[gnu::always_inline]] inline std::optional<uint64_t> ReadInSection(Scheme& scheme,
                                                                    uint64_t index) {
  std::optional<uint64_t> value;
  scheme.Section([&] { value = scheme.word().data(index); });
  return value;
}

// No protection at all: the floor.
class BareWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) const {
    return word_.DataIfValid(index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    use();
    return true;
  }

 private:
  Word word_;
};

// Readers share a lock, an invalidation takes it alone.
template <class Lock>
class LockedWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    lock_.lock_shared();
    const bool valid = word_.valid();
    if (valid) use();
    lock_.unlock_shared();
    return valid;
  }
  void Invalidate() { Set(false); }
  void Validate() { Set(true); }
  Word& word() { return word_; }

 private:
  void Set(bool valid) {
    lock_.lock();
    word_.SetValid(valid);
    lock_.unlock();
  }

  alignas(64) Lock lock_;
  Word word_;
};

// As a kernel's rwlock_t: a count of readers and a writer's bit in one word. A waiting writer keeps
// new readers out.
class SpinRwLock {
 public:
  void lock_shared() {
    for (;;) {
      if ((word_.fetch_add(kReader, kAcquire) & kWriter) == 0) return;
      word_.fetch_sub(kReader, kRelaxed);
      while ((word_.load(kRelaxed) & kWriter) != 0) CpuRelax();
    }
  }
  void unlock_shared() { word_.fetch_sub(kReader, kRelease); }
  void lock() {
    while ((word_.fetch_or(kWriter, kAcquire) & kWriter) != 0) CpuRelax();
    while (word_.load(kAcquire) != kWriter) CpuRelax();
  }
  void unlock() { word_.fetch_and(~kWriter, kRelease); }

 private:
  static constexpr uint32_t kWriter = 1;
  static constexpr uint32_t kReader = 2;
  std::atomic<uint32_t> word_{0};
};

class AbslRwLock {
 public:
  void lock_shared() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.ReaderLock(); }
  void unlock_shared() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.ReaderUnlock(); }
  void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.Lock(); }
  void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex_.Unlock(); }

 private:
  absl::Mutex mutex_;
};

// Does not protect the page: a reader finds out only afterwards that what it read was not valid. An
// invalidation waits for no reader, so this scheme is not enough for memory that is unmapped, and it has
// no sections: what a reader has written would stay.
class SeqlockWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) const {
    for (;;) {
      const uint64_t before = sequence_.load(kAcquire);
      const std::optional<uint64_t> value = word_.DataIfValid(index);
      std::atomic_thread_fence(kAcquire);
      if (before == sequence_.load(kRelaxed) && before % 2 == 0) {
        return value;
      }
      CpuRelax();
    }
  }
  void Invalidate() { Set(false); }
  void Validate() { Set(true); }
  Word& word() { return word_; }

 private:
  void Set(bool valid) {
    sequence_.fetch_add(1, kAcqRel);
    word_.SetValid(valid);
    sequence_.fetch_add(1, kRelease);
  }

  alignas(64) std::atomic<uint64_t> sequence_{0};
  Word word_;
};

// The read side of mmu/base/rcu; an invalidation waits for a grace period of the whole process.
class RcuWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    const rcu::ReadScope scope;
    const bool valid = word_.valid();
    if (valid) use();
    return valid;
  }
  void Invalidate() {
    word_.SetValid(false);
    rcu::Synchronize();
  }
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  Word word_;
};

// The bare protocol of mmu/readers/reader: one slot, one exchange, no nonce, no counters. What a
// pfn cache adds to it is the cost of being one.
class SlotWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    if (!word_.valid()) return false;
    slot_.exchange(1, kStoreLoad);
    const bool valid = word_.state().load(kStoreLoad) != 0;
    if (valid) use();
    slot_.store(0, kRelease);
    return valid;
  }
  void Invalidate() {
    word_.state().exchange(0, kStoreLoad);
    while (slot_.load(kStoreLoad) != 0) CpuRelax();
  }
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  alignas(64) std::atomic<uint64_t> slot_{0};
  Word word_;
};

// A counter of one reader that is odd while it reads. As the slot, but an invalidation recognizes
// that the reader has left and come again, so a busy reader cannot hold it up.
class EvenOddWord {
 public:
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    const uint64_t even = counter_.load(kRelaxed);
    counter_.exchange(even + 1, kStoreLoad);
    const bool valid = word_.state().load(kStoreLoad) != 0;
    if (valid) use();
    counter_.store(even + 2, kRelease);
    return valid;
  }
  void Invalidate() {
    word_.state().exchange(0, kStoreLoad);
    const uint64_t seen = counter_.load(kStoreLoad);
    if (seen % 2 == 0) return;
    while (counter_.load(kAcquire) == seen) CpuRelax();
  }
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  alignas(64) std::atomic<uint64_t> counter_{0};
  Word word_;
};

// The slot without the locked instruction: the invalidation pays for both sides with a membarrier.
class AsymmetricWord {
 public:
  AsymmetricWord();
  [[gnu::always_inline]] std::optional<uint64_t> Read(uint64_t index) {
    return ReadInSection(*this, index);
  }
  template <class Use>
  [[gnu::always_inline]] bool Section(const Use& use) {
    slot_.store(1, kRelaxed);
    std::atomic_signal_fence(kAcqRel);  // the other half is the membarrier of Invalidate
    const bool valid = word_.valid();
    if (valid) use();
    slot_.store(0, kRelease);
    return valid;
  }
  void Invalidate();
  void Validate() { word_.SetValid(true); }
  Word& word() { return word_; }

 private:
  alignas(64) std::atomic<uint64_t> slot_{0};
  Word word_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_COMPARATORS_PROTECTED_WORD_H_
