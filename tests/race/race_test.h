// The fixture of the race tests: an Mmu over a fake host, with one memslot, and functions that make
// brackets and faults on it.
//
// Thread safety: the functions may be called from the test's thread and from its tasks.

#ifndef UNDERFOOT_TESTS_RACE_RACE_TEST_H_
#define UNDERFOOT_TESTS_RACE_RACE_TEST_H_

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "mmu/base/rcu.h"
#include "mmu/base/sync_point.h"
#include "mmu/mmu.h"
#include "tests/race/staging.h"
#include "tests/support/wait_until.h"
#include "tests/unit/fake_host.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {

// A bracket that ends at the end of its scope at the latest, also if a test fails half-way.
class OpenBracket {
 public:
  OpenBracket() = default;
  OpenBracket(Notifier& notifier, Invalidation invalidation)
      : notifier_(&notifier), token_(notifier.Begin(invalidation)) {}
  OpenBracket(OpenBracket&&) = default;
  OpenBracket& operator=(OpenBracket&&) = default;
  ~OpenBracket() {
    if (token_.open()) End();
  }
  void End() { notifier_->End(token_); }

 private:
  Notifier* notifier_ = nullptr;
  BracketToken token_;
};

class RaceTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;
  static constexpr uint32_t kSlot = 3;
  static constexpr Gfn kFirst{0x100};

  RaceTest() { CreateSlotAt(0); }

  void TearDown() override {
    ClearSyncPoints();
    EXPECT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
    EXPECT_EQ(mmu_.in_flight().count(), 0u);
  }

  // Creates the slot over the half of the host's pages that begins at `page`.
  void CreateSlotAt(uint64_t page) {
    const absl::Status created = mmu_.CreateMemslot(
        {.id = kSlot, .gfns = {kFirst, kFirst + kPages / 2}, .hva = host_.PageAt(page)});
    ASSERT_TRUE(created.ok()) << created;
  }
  void DeleteSlot() { ASSERT_TRUE(mmu_.DeleteMemslot(kSlot).ok()); }
  // Deletes the slot and creates it again over the other half.
  void MoveSlot() {
    DeleteSlot();
    CreateSlotAt(kPages / 2);
  }

  static Gfn GfnAt(uint64_t page) { return kFirst + page; }
  static Gpa GpaAt(uint64_t page) { return GpaOf(GfnAt(page)); }

  OpenBracket Begin(uint64_t page, InvalidationKind kind = InvalidationKind::kUnmap) {
    return OpenBracket(mmu_.notifier(), {host_.Pages(page), kind});
  }
  // Makes one whole bracket in which the page moves to another frame.
  void MovePage(uint64_t page) {
    OpenBracket bracket = Begin(page);
    host_.Move(host_.Pages(page));
  }
  FaultResult Fault(const Reader& reader, uint64_t page, Access access = Access::kRead) {
    return mmu_.faults().HandleFault(reader, GfnAt(page), access);
  }
  void FaultIn(uint64_t page, Access access = Access::kRead) {
    Reader reader(mmu_.readers());
    ASSERT_EQ(mmu_.faults().FaultIn(reader, GfnAt(page), access).outcome, FaultInOutcome::kMapped);
  }
  // Returns the outcome of a fault on page 5 that is stopped at the sync point `point` while
  // `change` is made.
  template <class Change>
  FaultOutcome FaultAround(std::string_view point, Access access, const Change& change) {
    Gate gate(point);
    FaultOutcome outcome = FaultOutcome::kFailed;
    Task installer("installer", [&] {
      Reader reader(mmu_.readers());
      outcome = Fault(reader, 5, access).outcome;
    });
    EXPECT_TRUE(StopsAt(gate, installer));
    change();
    gate.Open();
    installer.Join();
    return outcome;
  }
  // `section` is open. Expects that `change` waits until the section is left.
  template <class Section, class Change>
  void ExpectToWaitFor(Section& section, const Change& change) {
    Gate gate("reader-wait");
    Task task("change", change);
    ASSERT_TRUE(StopsAt(gate, task));
    section = {};
    gate.Open();
    task.Join();
  }
  // Makes an update that must wait for the thread that stands at the gate `holder`. Opens the gate
  // only after the update waits.
  template <class Update>
  void LetWaitForHolder(Gate& holder, const Update& change) {
    Gate waits("slot-waits-for-walks");
    Task update("update", change);
    if (!StopsAt(waits, update)) return update.Join();  // before its end, which opens all gates
    waits.Open();
    // An update that wrongly does not wait gets this time to return. An update that waits is not
    // disturbed by it.
    static_cast<void>(WaitUntil([&] { return update.done(); }, std::chrono::milliseconds(100)));
    if (!update.done()) holder.Open();
    update.Join();
  }
  std::optional<Pte> LeafOf(uint64_t page) {
    rcu::ReadScope rcu;
    const auto leaf = mmu_.stage2().Lookup(GfnAt(page));
    return leaf.has_value() ? std::optional(leaf->pte) : std::nullopt;
  }
  Pfn PfnNow(uint64_t page) { return host_.PfnOf(host_.PageAt(page)); }

  FakeHost host_{kPages};
  Mmu mmu_{host_};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_RACE_RACE_TEST_H_
