// An Mmu over a fake host with one memslot, for the tests of what is built on both.

#ifndef UNDERFOOT_TESTS_UNIT_MMU_RIG_H_
#define UNDERFOOT_TESTS_UNIT_MMU_RIG_H_

#include <gtest/gtest.h>

#include <optional>

#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {

class MmuRig : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;
  static constexpr uint32_t kSlot = 3;
  static constexpr Gfn kFirst{0x100};
  static constexpr Gfn kNowhere{0x9000};

  MmuRig() {
    const absl::Status created = mmu_.CreateMemslot(
        {.id = kSlot, .gfns = {kFirst, kFirst + kPages}, .hva = host_.range().begin});
    EXPECT_TRUE(created.ok()) << created;
  }

  void TearDown() override { EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), ""); }

  static Gfn GfnAt(uint64_t page) { return kFirst + page; }
  static Gpa GpaAt(uint64_t page) { return GpaOf(GfnAt(page)); }
  Pfn PfnNow(uint64_t page) { return host_.PfnOf(host_.PageAt(page)); }
  FaultOutcome Fault(uint64_t page, Access access = Access::kRead) {
    return mmu_.faults().HandleFault(reader_, GfnAt(page), access).outcome;
  }
  // One whole bracket.
  void Invalidate(uint64_t page, uint64_t pages = 1,
                  InvalidationKind kind = InvalidationKind::kUnmap) {
    InvalidationScope scope(mmu_.notifier(), {host_.Pages(page, pages), kind});
  }
  std::optional<Pte> LeafOf(uint64_t page) {
    rcu::ReadScope rcu;
    const auto leaf = mmu_.stage2().Lookup(GfnAt(page));
    return leaf.has_value() ? std::optional(leaf->pte) : std::nullopt;
  }

  FakeHost host_{kPages};
  Mmu mmu_{host_};
  Reader reader_{mmu_.readers()};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_UNIT_MMU_RIG_H_
