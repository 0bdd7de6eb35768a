// Random updates of memslots, and the writes and invalidations beside them, do what they do to a
// std::map; the look-ups by gfn and by hva and the dirty logs included.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "mmu/pfn_cache.h"
#include "tests/support/random.h"
#include "tests/unit/mmu_rig.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kHostPages = 256;
constexpr uint64_t kGfns = 512;
constexpr uint32_t kIds = 12;

struct ModelLeaf {
  uint64_t page;  // of the host
  bool writable;
  bool dirty;
};

struct ModelSlot {
  uint64_t gfn;
  uint64_t pages;
  uint64_t page;  // of the host, of the first gfn
  MemslotFlags flags;
  std::set<uint64_t> log;  // what has left the leaves

  bool Has(uint64_t g) const { return gfn <= g && g < gfn + pages; }
  uint64_t PageOf(uint64_t g) const { return page + g - gfn; }
};

class MemslotModelTest : public ::testing::Test {
 protected:
  ~MemslotModelTest() override { cache_.Deactivate(); }

  ModelSlot* SlotOf(uint64_t gfn) {
    for (auto& [id, slot] : slots_) {
      if (slot.Has(gfn)) return &slot;
    }
    return nullptr;
  }
  bool Overlaps(uint32_t id, uint64_t gfn, uint64_t pages) const {
    return std::any_of(slots_.begin(), slots_.end(), [&](const auto& entry) {
      const ModelSlot& slot = entry.second;
      return entry.first != id && gfn < slot.gfn + slot.pages && slot.gfn < gfn + pages;
    });
  }
  // The leaves of the slot go; with `keep_log` what was dirty goes to its log.
  void DropLeaves(ModelSlot& slot, uint64_t first_page, uint64_t pages) {
    for (uint64_t gfn = slot.gfn; gfn < slot.gfn + slot.pages; ++gfn) {
      const uint64_t page = slot.PageOf(gfn);
      const auto leaf = leaves_.find(gfn);
      if (page < first_page || page >= first_page + pages || leaf == leaves_.end()) continue;
      if (leaf->second.dirty && slot.flags.log_dirty) slot.log.insert(gfn - slot.gfn);
      leaves_.erase(leaf);
    }
  }
  uint32_t RandomId() { return static_cast<uint32_t>(random_.Below(kIds)); }
  MemslotFlags RandomFlags() {
    return {.read_only = random_.Chance(1, 4), .log_dirty = random_.Chance(2, 3)};
  }

  void Create() {
    const uint32_t id = RandomId();
    const uint64_t pages = 1 + random_.Below(60);
    const ModelSlot slot{
        random_.Below(kGfns - pages), pages, random_.Below(kHostPages - pages), RandomFlags(), {}};
    const bool ok = mmu_.CreateMemslot({.id = id,
                                        .gfns = {{slot.gfn}, {slot.gfn + pages}},
                                        .hva = host_.PageAt(slot.page),
                                        .flags = slot.flags})
                        .ok();
    ASSERT_EQ(ok, !slots_.contains(id) && !Overlaps(id, slot.gfn, pages));
    if (ok) slots_.emplace(id, slot);
  }
  void Delete() {
    const uint32_t id = RandomId();
    const auto slot = slots_.find(id);
    ASSERT_EQ(mmu_.DeleteMemslot(id).ok(), slot != slots_.end());
    if (slot == slots_.end()) return;
    DropLeaves(slot->second, 0, kHostPages);
    slots_.erase(slot);
  }
  void Move() {
    const uint32_t id = RandomId();
    const auto found = slots_.find(id);
    const uint64_t pages = found == slots_.end() ? 1 : found->second.pages;
    const uint64_t to = random_.Below(kGfns - pages);
    const bool ok = found != slots_.end() && !Overlaps(id, to, pages);
    ASSERT_EQ(mmu_.MoveMemslot(id, {to}).ok(), ok);
    if (!ok || to == found->second.gfn) return;
    DropLeaves(found->second, 0, kHostPages);
    found->second.gfn = to;
  }
  void SetFlags() {
    const uint32_t id = RandomId();
    const MemslotFlags flags = RandomFlags();
    const auto found = slots_.find(id);
    ASSERT_EQ(mmu_.SetMemslotFlags(id, flags).ok(), found != slots_.end());
    if (found == slots_.end()) return;
    ModelSlot& slot = found->second;
    const bool starts = flags.log_dirty && !slot.flags.log_dirty;
    if (starts || !flags.log_dirty) slot.log.clear();
    for (uint64_t gfn = slot.gfn; gfn < slot.gfn + slot.pages; ++gfn) {
      const auto leaf = leaves_.find(gfn);
      if (leaf == leaves_.end()) continue;
      if (flags.read_only) leaf->second.writable = false;
      if (starts) leaf->second.dirty = false;
    }
    slot.flags = flags;
  }
  // What a fault that succeeds does. The host grants writes whatever is asked for.
  FaultOutcome FaultedIn(const ModelSlot& slot, uint64_t gfn, Access access) {
    const auto [entry, fresh] = leaves_.try_emplace(gfn, ModelLeaf{slot.PageOf(gfn), false, false});
    ModelLeaf& leaf = entry->second;
    const bool present = !fresh && (access == Access::kRead || leaf.writable);
    if (!present) leaf.writable = !slot.flags.read_only;
    leaf.dirty = leaf.dirty || access == Access::kWrite;
    return present ? FaultOutcome::kPresent : FaultOutcome::kMapped;
  }
  void Fault() {
    const uint64_t gfn = random_.Below(kGfns);
    const Access access = random_.Chance(1, 2) ? Access::kWrite : Access::kRead;
    const FaultOutcome outcome = mmu_.faults().HandleFault(reader_, {gfn}, access).outcome;
    const ModelSlot* slot = SlotOf(gfn);
    if (slot == nullptr) {
      ASSERT_EQ(outcome, FaultOutcome::kNoMemslot);
    } else if (slot->flags.read_only && access == Access::kWrite) {
      ASSERT_EQ(outcome, FaultOutcome::kReadOnly);
    } else {
      ASSERT_EQ(outcome, FaultedIn(*slot, gfn, access));
    }
  }
  void Write() {
    const uint64_t gfn = random_.Below(kGfns);
    const auto leaf = leaves_.find(gfn);
    const bool writes = leaf != leaves_.end() && leaf->second.writable;
    const TranslatedPage page = mmu_.Translate(reader_, GpaOf(Gfn{gfn}), Access::kWrite);
    ASSERT_EQ(static_cast<bool>(page), writes);
    if (!writes) return;
    ASSERT_EQ(page.hva(), host_.PageAt(leaf->second.page));
    leaf->second.dirty = true;
  }
  // The cache goes to another page, refreshed by a write fault, and is written.
  void WriteThroughACache() {
    const uint64_t gfn = random_.Below(kGfns);
    const ModelSlot* slot = SlotOf(gfn);
    const bool ok = cache_.Activate(reader_, GpaOf(Gfn{gfn}), 8, Access::kWrite).ok();
    ASSERT_EQ(ok, slot != nullptr && !slot->flags.read_only);
    if (!ok) return;
    static_cast<void>(FaultedIn(*slot, gfn, Access::kWrite));
    cached_ = gfn;
  }
  // Without the refresh: only the log records the write.
  void WriteThroughTheCache() {
    const CacheSection section = cache_.Check(reader_);
    if (!section) return;
    section.MarkDirty();
    ++cache_writes_;
    ModelSlot* slot = SlotOf(cached_);
    ASSERT_NE(slot, nullptr);
    ASSERT_FALSE(slot->flags.read_only);
    ASSERT_EQ(section.data(), PointerOf(host_.PageAt(slot->PageOf(cached_))));
    if (slot->flags.log_dirty) slot->log.insert(cached_ - slot->gfn);
  }
  void Invalidate() {
    const uint64_t pages = 1 + random_.Below(40);
    const uint64_t first = random_.Below(kHostPages - pages);
    const bool protects = random_.Chance(1, 3);
    {
      InvalidationScope scope(mmu_.notifier(),
                              {host_.Pages(first, pages),
                               protects ? InvalidationKind::kProtect : InvalidationKind::kUnmap});
    }
    for (auto& [id, slot] : slots_) {
      if (!protects) DropLeaves(slot, first, pages);
    }
    for (auto& [gfn, leaf] : leaves_) {
      if (leaf.page >= first && leaf.page < first + pages) leaf.writable = false;
    }
  }
  void Collect() {
    const uint32_t id = RandomId();
    const absl::StatusOr<DirtyBitmap> dirty = mmu_.CollectDirty(id);
    const auto found = slots_.find(id);
    ASSERT_EQ(dirty.ok(), found != slots_.end() && found->second.flags.log_dirty);
    if (!dirty.ok()) return;
    ModelSlot& slot = found->second;
    std::set<uint64_t> expected = std::exchange(slot.log, {});
    for (uint64_t gfn = slot.gfn; gfn < slot.gfn + slot.pages; ++gfn) {
      const auto leaf = leaves_.find(gfn);
      if (leaf == leaves_.end() || !std::exchange(leaf->second.dirty, false)) continue;
      expected.insert(gfn - slot.gfn);
    }
    std::set<uint64_t> reported;
    dirty->ForEach([&](uint64_t page) { reported.insert(page); });
    ASSERT_EQ(reported, expected);
    reported_ += reported.size();
  }

  void DoOneThing() {
    struct Share {
      uint64_t below;
      void (MemslotModelTest::*operation)();
    };
    const Share shares[] = {{6, &MemslotModelTest::Create},
                            {8, &MemslotModelTest::Delete},
                            {12, &MemslotModelTest::Move},
                            {16, &MemslotModelTest::SetFlags},
                            {50, &MemslotModelTest::Fault},
                            {70, &MemslotModelTest::Write},
                            {75, &MemslotModelTest::WriteThroughACache},
                            {85, &MemslotModelTest::WriteThroughTheCache},
                            {92, &MemslotModelTest::Invalidate},
                            {100, &MemslotModelTest::Collect}};
    const uint64_t kind = random_.Below(100);
    for (const Share& share : shares) {
      if (kind < share.below) return (this->*share.operation)();
    }
  }

  void CompareLookUps() {
    rcu::ReadScope rcu;
    const MemslotSet& set = mmu_.memslots().Current();
    ASSERT_EQ(set.size(), slots_.size());
    for (uint64_t gfn = 0; gfn < kGfns; ++gfn) {
      const ModelSlot* expected = SlotOf(gfn);
      const Memslot* found = set.Find(Gfn{gfn});
      ASSERT_EQ(found != nullptr, expected != nullptr) << gfn;
      if (found == nullptr) continue;
      ASSERT_EQ(found->HvaOf({gfn}), host_.PageAt(expected->PageOf(gfn)));
      ASSERT_EQ(found->flags, expected->flags);
    }
    const uint64_t pages = 1 + random_.Below(8);
    for (uint64_t page = 0; page + pages <= kHostPages; page += pages) {
      std::set<uint32_t> expected;
      for (const auto& [id, slot] : slots_) {
        if (page < slot.page + slot.pages && slot.page < page + pages) expected.insert(id);
      }
      std::set<uint32_t> found;
      set.ForEachOverlap(host_.Pages(page, pages), [&](const Memslot& slot, HvaRange overlap) {
        ASSERT_FALSE(overlap.empty());
        ASSERT_TRUE(found.insert(slot.id).second) << "visited twice: " << slot.id;
      });
      ASSERT_EQ(found, expected) << page;
    }
  }
  void CompareLeaves() {
    ASSERT_EQ(WhatIsWrongWith(mmu_.stage2()), "");
    const std::vector<RawEntry> leaves = ReadTables(mmu_.stage2()).leaves;
    ASSERT_EQ(leaves.size(), leaves_.size());
    for (const RawEntry& raw : leaves) {
      const auto leaf = leaves_.find(raw.gfn.value);
      ASSERT_NE(leaf, leaves_.end()) << raw.gfn.value;
      ASSERT_EQ(raw.pte.pfn(), host_.PfnOf(host_.PageAt(leaf->second.page)));
      ASSERT_EQ(raw.pte.writable(), leaf->second.writable) << raw.gfn.value;
      ASSERT_EQ(raw.pte.dirty(), leaf->second.dirty) << raw.gfn.value;
    }
  }

  Random random_;
  FakeHost host_{kHostPages};
  Mmu mmu_{host_};
  Reader reader_{mmu_.readers()};
  PfnCache cache_{mmu_, "model"};
  std::map<uint32_t, ModelSlot> slots_;
  std::map<uint64_t, ModelLeaf> leaves_;  // by gfn
  uint64_t cached_ = 0;
  uint64_t reported_ = 0;
  uint64_t cache_writes_ = 0;
};

TEST_F(MemslotModelTest, RandomUpdatesAndWritesEqualAMap) {
  for (int round = 0; round < 20000; ++round) {
    DoOneThing();
    if (HasFatalFailure()) return;
    if (round % 20 != 0) continue;
    CompareLookUps();
    CompareLeaves();
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(reported_, 100u);
  EXPECT_GT(cache_writes_, 100u);
}

}  // namespace
}  // namespace underfoot::testing
