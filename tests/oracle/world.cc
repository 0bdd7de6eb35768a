#include "tests/oracle/world.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "tests/oracle/driver.h"

namespace underfoot::oracle {

std::string TextOf(const Operation& op) {
  return absl::StrFormat("%s #%u, view %u, cells [%u, %u), %s, %s, mood %u, flag %d",
                         NameOf(op.kind), op.index, op.view, op.cells.begin, op.cells.end,
                         op.access == Access::kWrite ? "write" : "read",
                         op.invalidation == InvalidationKind::kUnmap ? "unmap" : "protect",
                         static_cast<unsigned>(op.mood), op.flag);
}

std::string TextOf(const Outcome& outcome) {
  return absl::StrFormat("%s (frame %u)", NameOf(outcome.result), outcome.frame);
}

std::string History::Text() const {
  std::string text;
  for (uint64_t i = added_ > kLines ? added_ - kLines : 0; i < added_; ++i) {
    const Line& line = lines_[i % kLines];
    absl::StrAppendFormat(&text, "  thread %u, operation %u: %s -> %s\n", line.thread, line.number,
                          TextOf(line.operation), TextOf(line.expected));
  }
  return text;
}

Island::Island(Mmu& mmu)
    : caches{PfnCache(mmu, "a"), PfnCache(mmu, "b"), PfnCache(mmu, "c")},
      claimants{Reader(mmu.readers()), Reader(mmu.readers())} {}

template <class Visitor>
void CountingSubscriber::ForEachOverlap(HvaRange range, const Visitor& visit) {
  for (unsigned island = 0; island < kIslands; ++island) {
    const HvaRange hvas{memory_.PageAt(FirstPageOf(island)),
                        memory_.PageAt(FirstPageOf(island + 1))};
    if (hvas.Overlaps(range)) visit(records[island]);
  }
}

bool CountingSubscriber::Invalidate(const Invalidation& invalidation) {
  ForEachOverlap(invalidation.range, [](Record& record) { ++record.invalidated; });
  return false;  // this subscriber holds no translation
}

bool CountingSubscriber::TestClearYoung(HvaRange range, bool clear) {
  bool young = false;
  ForEachOverlap(range, [&](Record& record) {
    ++record.asked;
    young = young || record.young;
    record.young = record.young && !clear;
  });
  return young;
}

PageInResult DriversPageSource::PageIn(Hva page, Access access, FaultContext*) {
  return Driver::OfThisThread().PageIn(page, access);
}

// Only for whole blocks. One answer holds for all of their pages.
void DriversPageSource::PageInSome(HvaRange pages, std::span<PageInResult> results, FaultContext*) {
  PageInResult in = Driver::OfThisThread().PageIn(pages.begin, Access::kRead);
  for (PageInResult& result : results) {
    result = in;
    in.pfn = in.pfn + 1;
  }
}

World::World(uint64_t retired_cap_bytes) : mmu_(source_, {.retired_cap_bytes = retired_cap_bytes}) {
  for (unsigned number = 0; number < kIslands; ++number) {
    islands_[number] = std::make_unique<Island>(mmu_);
    Island& island = *islands_[number];
    island.number = number;
    island.state.may_have_blocks = MayHaveBlocks(number);
    island.state.views[kSharedView].present = true;
    for (const Reader& claimant : island.claimants) TakeTag(claimant.tag());
    for (unsigned cell = 0; cell < kCells; ++cell) {
      island.state.pages[cell] = static_cast<uint16_t>(PagesOfCell(number, cell));
      PageWords(HvaOf(island, cell)).Set(0, PfnAt(island, cell, 1).value);
    }
  }
  const absl::Status created = mmu_.CreateMemslot(
      {.id = kSharedSlotId,
       .gfns = {FirstGfnOf(0, kSharedView), FirstGfnOf(0, kSharedView) + kTotalPages},
       .hva = memory_.PageAt(0)});
  if (!created.ok()) Fail(created.ToString());
}

// Closes everything that a failed run left open, so that the failure itself is reported and not a
// check in a destructor.
World::~World() {
  const auto end = [this](BracketToken& token) {
    if (token.open()) mmu_.notifier().End(token);
  };
  for (SharedBracket& bracket : shared_brackets) end(bracket.token);
  for (const auto& island : islands_) {
    for (BracketToken& token : island->brackets) end(token);
    for (PfnCache& cache : island->caches) cache.Deactivate();
  }
  if (islands_[0]->state.subscriber.registered) mmu_.notifier().Unregister(subscriber_);
}

void World::Fail(const std::string& what) {
  std::lock_guard lock(failure_mutex_);
  if (failed()) return;
  failure_ = what;
  std::fprintf(stderr, "%s\n", what.c_str());
  failed_.store(true, std::memory_order::relaxed);
}

std::string World::failure() {
  std::lock_guard lock(failure_mutex_);
  return failure_;
}

}  // namespace underfoot::oracle
