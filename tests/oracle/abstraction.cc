#include "tests/oracle/abstraction.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "mmu/base/rcu.h"
#include "tests/oracle/model.h"
#include "tests/unit/raw_table.h"

namespace underfoot::oracle {
namespace {

// The table at which the walk down to a gfn ends: a table of pages, or one above it.
struct PathEnd {
  Table* pages = nullptr;
  Pte pte;
  unsigned level = 0;
};

// Other islands use the tables too, so the caller must hold an rcu::ReadScope. Only this island
// uses the entries.
PathEnd WalkDown(Stage2& stage2, Gfn gfn) {
  Table* table = &stage2.RootUnsafe();
  while (table->level > 0) {
    const Pte pte = table->entries[IndexOf(gfn, table->level)].Load();
    if (!pte.is_table()) return {nullptr, pte, table->level};
    table = pte.table();
  }
  return {table, Pte(), 0};
}

class IslandAbstraction {
 public:
  IslandAbstraction(World& world, const Island& island, OwnerTag faulter, Comparisons& compared)
      : world_(world), island_(island), faulter_(faulter), compared_(compared) {}

  std::string DifferenceOfView(unsigned view) {
    const View& model = island_.state.views[view];
    const PathEnd end = WalkDown(world_.mmu().stage2(), World::GfnOf(island_, view, 0));
    if (end.pages == nullptr) {
      ++compared_.entries;
      const Pte block = Expected(model.block, 0);
      if (end.pte != block) return Differs(view, 0, block, end.pte);
      // The walk ended at a block of the level above, or at empty entries where the model has
      // pages.
      if (!end.pte.empty() && end.level != 1) return Differs(view, 0, Pte(), end.pte);
      if (end.pte.empty() && !IsEmpty(model)) return Differs(view, 0, Expected(model, 0), Pte());
      return {};
    }
    if (!model.block.empty()) return Differs(view, 0, Expected(model.block, 0), Pte());
    if (MayHaveBlocks(island_.number) && IsEmpty(model)) {
      return absl::StrFormat("view %u: an empty table is left", view);
    }
    for (unsigned cell = 0; cell < kCells; ++cell) {
      const uint64_t pages = PagesOfCell(island_.number, cell);
      const Pte expected = Expected(model.cells[cell], cell);
      const Gfn gfn = World::GfnOf(island_, view, cell);
      ++compared_.entries;
      const Pte found = end.pages->entries[IndexOf(gfn, 0)].Load();
      if (found != expected) return Differs(view, cell, expected, found);
      if (pages == 1) continue;
      ++compared_.entries;
      const Pte last = end.pages->entries[IndexOf(gfn + (pages - 1), 0)].Load();
      const Pte expected_last =
          expected.empty() ? expected : expected.WithPfn(expected.pfn() + (pages - 1));
      if (last != expected_last) return Differs(view, cell, expected_last, last);
    }
    return {};
  }

  std::string DifferenceOfCache(unsigned index) {
    using Validity = CacheState::Validity;
    const CacheState& model = island_.state.caches[index];
    const PfnCache::Description real = island_.caches[index].Describe();
    ++compared_.caches;
    if (real.valid != (model.validity == Validity::kValid) ||
        real.pending != (model.validity == Validity::kPending)) {
      return absl::StrFormat("cache %u: valid %d, pending %d; expected validity %u", index,
                             real.valid, real.pending, static_cast<unsigned>(model.validity));
    }
    if (model.active && real.writable != model.writable) {
      return absl::StrFormat("cache %u: writable %d", index, real.writable);
    }
    if (model.validity == Validity::kInvalid) return {};
    const Hva hva = world_.HvaOf(island_, model.cells.begin);
    if (real.hva != hva) {
      return absl::StrFormat("cache %u: hva 0x%x, expected 0x%x", index, real.hva.value, hva.value);
    }
    const Pfn pfn = world_.PfnAt(island_, model.cells.begin, model.frame);
    if (real.valid && real.pfn() != pfn) {
      return absl::StrFormat("cache %u: pfn 0x%x, expected 0x%x", index, real.pfn().value,
                             pfn.value);
    }
    return {};
  }

  std::string DifferenceOfHost(uint8_t cell) {
    const Hva hva = world_.HvaOf(island_, cell);
    const bool expected = InFlight(island_.state, OneCell(cell));
    ++compared_.in_flight;
    if (world_.mmu().in_flight().FindOverlap(PageRangeOf(hva)).has_value() != expected) {
      return absl::StrFormat("cell %u: in flight %d, expected %d", cell, !expected, expected);
    }
    if (!IsPage(island_.number, cell)) return {};
    ++compared_.contents;
    const Pfn frame = world_.PfnAt(island_, cell, island_.state.host[cell].frame);
    const uint64_t word = PageWords(hva).Get(0);
    if (word == frame.value) return {};
    return absl::StrFormat("cell %u: the page says frame 0x%x, expected 0x%x", cell, word,
                           frame.value);
  }

  std::string DifferenceOfSubscriber() {
    const SubscriberState& model = island_.state.subscriber;
    const CountingSubscriber::Record& real = world_.subscriber().records[island_.number];
    ++compared_.subscriber;
    if (real.invalidated == model.invalidated && real.asked == model.asked &&
        real.young == model.young) {
      return {};
    }
    return absl::StrFormat(
        "the subscriber: invalidated %u, asked %u, young %d; expected %u, %u, %d", real.invalidated,
        real.asked, real.young, model.invalidated, model.asked, model.young);
  }

 private:
  static bool IsEmpty(const View& view) {
    return std::all_of(view.cells.begin(), view.cells.end(),
                       [](const EntryState& entry) { return entry.empty(); });
  }

  OwnerTag TagOf(Owner owner) const {
    if (owner == kUnowned) return 0;
    return owner == kFaulter ? faulter_ : island_.claimants[owner - 1u].tag();
  }

  Pte Expected(const EntryState& entry, unsigned cell) const {
    if (entry.empty()) return Pte();
    if (!entry.is_leaf()) return Pte::Claim(TagOf(entry.owner));
    Pte pte = Pte::Leaf(world_.PfnAt(island_, cell, entry.frame),
                        entry.writable ? Access::kWrite : Access::kRead);
    if (!entry.young) pte = pte.Old();
    if (entry.dirty) pte = pte.Dirty();
    return pte.WithTag(TagOf(entry.owner));
  }
  Pte Expected(const View& view, unsigned cell) const {
    return Expected(view.Deciding(static_cast<uint8_t>(cell)), cell);
  }

  static std::string TextOf(Pte pte) {
    if (pte.empty()) return "nothing";
    if (pte.is_claim()) return absl::StrFormat("a claim of %u", pte.tag());
    return absl::StrFormat("0x%x %s%s%s tag %u", pte.pfn().value, pte.writable() ? "w" : "-",
                           pte.young() ? "y" : "-", pte.dirty() ? "d" : "-", pte.tag());
  }
  static std::string Differs(unsigned view, unsigned cell, Pte expected, Pte found) {
    return absl::StrFormat("view %u, cell %u: expected %s, found %s", view, cell, TextOf(expected),
                           TextOf(found));
  }

  World& world_;
  const Island& island_;
  const OwnerTag faulter_;
  Comparisons& compared_;
};

// The sums over all islands of what exists now.
struct Totals {
  uint64_t pages = 0;
  uint64_t blocks = 0;
  uint64_t claimed_pages = 0;  // claims of holes
  uint64_t claimed_blocks = 0;
  uint64_t owned = 0;  // claims of holes and of leaves
  uint64_t caches = 0;
  uint64_t slots = 0;
  uint64_t brackets = 0;
  uint64_t flushes = 0;  // since the start, as the next two
  uint64_t maps = 0;
  uint64_t unmaps = 0;
};

Totals TotalsOf(World& world) {
  Totals totals;
  totals.flushes = world.shared_flushes;
  for (unsigned number = 0; number < kIslands; ++number) {
    const Island& island = world.island(number);
    totals.flushes += island.flushes;
    totals.maps += island.state.tally.maps;
    totals.unmaps += island.state.tally.unmaps;
    for (unsigned v = 0; v < kViews; ++v) {
      const View& view = island.state.views[v];
      totals.slots += view.present && (v != kSharedView || number == 0);
      totals.blocks += view.block.is_leaf();
      totals.claimed_blocks += !view.block.empty() && !view.block.is_leaf();
      totals.owned += view.block.owner != kUnowned;
      for (unsigned cell = 0; cell < kCells; ++cell) {
        totals.pages += view.cells[cell].is_leaf() ? PagesOfCell(number, cell) : 0;
        totals.claimed_pages += !view.cells[cell].empty() && !view.cells[cell].is_leaf();
        totals.owned += view.cells[cell].owner != kUnowned;
      }
    }
    for (const CacheState& cache : island.state.caches) totals.caches += !cache.listed.empty();
    for (const BracketToken& token : island.brackets) totals.brackets += token.open();
  }
  for (const World::SharedBracket& bracket : world.shared_brackets) {
    totals.brackets += bracket.token.open();
  }
  return totals;
}

}  // namespace

std::string DifferenceOf(World& world, const Island& island, uint8_t cell, OwnerTag faulter,
                         Comparisons& compared) {
  IslandAbstraction real(world, island, faulter, compared);
  {
    rcu::ReadScope rcu;
    for (unsigned view = 0; view < kViews; ++view) {
      std::string difference = real.DifferenceOfView(view);
      if (!difference.empty()) return difference;
    }
  }
  for (unsigned index = 0; index < kCaches; ++index) {
    std::string difference = real.DifferenceOfCache(index);
    if (!difference.empty()) return difference;
  }
  std::string difference = real.DifferenceOfHost(cell);
  if (difference.empty()) difference = real.DifferenceOfSubscriber();
  if (!difference.empty()) return difference;
  const char* breach = BreachOf(island.state);
  return breach == nullptr ? std::string() : breach;
}

std::string DifferenceOfWhole(World& world, Comparisons& compared) {
  ++compared.censuses;
  const Totals totals = TotalsOf(world);
  rcu::Barrier();  // the leaves of a table that was unmapped whole count until the table is freed
  testing::RawTables raw = testing::ReadTables(world.mmu().stage2());
  const MmuStats stats = world.mmu().Stats();
  const auto compare = [&raw](const char* what, uint64_t expected, uint64_t found) {
    if (expected == found) return;
    raw.complaints.push_back(absl::StrFormat("%s: expected %u, found %u", what, expected, found));
  };
  compare("pages in the tables", totals.pages, raw.leaves_at[0]);
  compare("pages counted", totals.pages + totals.claimed_pages, stats.stage2.leaves_4k);
  compare("blocks in the tables", totals.blocks, raw.leaves_at[1]);
  compare("blocks counted", totals.blocks + totals.claimed_blocks, stats.stage2.leaves_2m);
  compare("claims in the tables", totals.owned, raw.claims.size());
  compare("tables counted", raw.tables, stats.stage2.tables);
  compare("pfn caches listed", totals.caches, stats.pfn_caches.count);
  compare("memslots", totals.slots, stats.memslots.count);
  compare("brackets in the set", totals.brackets, world.mmu().in_flight().count());
  compare("flushes", totals.flushes, stats.stage2.flushes);
  compare("maps", totals.maps, stats.stage2.maps);
  compare("unmaps", totals.unmaps, stats.stage2.unmaps);
  compare("brackets counted", totals.brackets, stats.notifier.in_flight);
  return absl::StrJoin(raw.complaints, "; ");
}

}  // namespace underfoot::oracle
