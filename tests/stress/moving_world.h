// A world whose memory moves: pages with a content that says which page of which generation they
// are, a host mm call that changes both, and the oracles that readers ask.
//
// The first word of a page is the frame number that FakeHost has for it. The host mm call, which
// stands between Begin and End, overwrites it with poison, moves the page, and writes the new frame
// number. A reader in a read section that sees poison, sees the word change, or finds another
// frame than that of its translation has found a breach of I1 or I2. The other words belong to one
// writer each; the call carries them over as a copying kernel does, and a writer that finds its
// word changed was not waited for.
//
// All accesses are plain ones: ThreadSanitizer is an oracle too.
//
// Thread safety: any thread.

#ifndef UNDERFOOT_TESTS_STRESS_MOVING_WORLD_H_
#define UNDERFOOT_TESTS_STRESS_MOVING_WORLD_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

#include "mmu/mmu.h"
#include "tests/stress/squad.h"
#include "tests/support/random.h"
#include "tests/unit/fake_host.h"

namespace underfoot::testing {

class MovingWorld {
 public:
  static constexpr uint64_t kPages = 64;
  static constexpr Gfn kFirstGfn{0x1f0};  // the slot crosses a boundary of 2 MiB
  static constexpr uint32_t kSlot = 0;
  static constexpr unsigned kWriters = 4;

  explicit MovingWorld(Squad& squad);

  FakeHost& host() { return host_; }
  Mmu& mmu() { return mmu_; }
  Gpa RandomGpa(Random& random) const { return GpaOf(kFirstGfn + random.Below(kPages)); }
  HvaRange RandomRange(Random& random) const;

  // One bracket with the host mm call inside.
  void MoveSome(Random& random);
  // One bracket that takes write permission away; while it lasts no thread writes.
  void ProtectSome(Random& random);

  // Inside a section on the page at `data`, whose translation says `pfn`.
  void CheckPage(const std::byte* data, Pfn pfn);
  // Inside a section on the page at `data`: what it says stays the same.
  void CheckStays(const std::byte* data);
  // Inside a section that may write. `writer` < kWriters.
  void WriteAndCheck(std::byte* data, unsigned writer);

  // The first breach that an oracle saw; empty when there was none.
  std::string Breach();
  // Nothing when what must be true after the threads have ended is.
  std::string WhatIsLeft();

  std::atomic<uint64_t> moves{0};
  std::atomic<uint64_t> protects{0};
  std::atomic<uint64_t> checks{0};
  std::atomic<uint64_t> writes{0};

 private:
  void Report(std::string what);
  uint64_t IndexOf(const std::byte* data) const;

  Squad& squad_;
  FakeHost host_;
  Mmu mmu_;
  std::mutex host_mutex_;  // as mmap_lock: host mm calls exclude each other
  std::mutex breach_mutex_;
  std::string breach_;
  uint64_t written_[kWriters][kPages] = {};  // each row: its writer's own
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_STRESS_MOVING_WORLD_H_
