// Populating guest memory: pages of 4 KiB come in by windows of 64, and are mapped. What a shared
// table costs a guest that starts, beside what the host does for each page.
//
// The floor is the host's own: it clears or copies a page and maps it, a hundred times what a plain
// store costs.

#include <memory>
#include <string>
#include <utility>

#include "mmu/base/check.h"
#include "mmu/mmu.h"
#include "mmu/page_source.h"
#include "mmu/stage2/stage2.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "tests/bench/comparators/exclusive_table.h"
#include "tests/bench/comparators/raw_uffd.h"
#include "tests/bench/cpus.h"
#include "tests/bench/free_tables.h"
#include "tests/bench/shared_table.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kPages = 4096;
constexpr uint64_t kWindow = RawUffdMemory::kMostPages;
static_assert(kEntries % kWindow == 0);

// Guest memory that comes in by windows: copied by userfaultfd where that is allowed, else by the
// kernel as it is touched. Frames are hva page numbers.
class WindowedMemory final : public PageSource {
 public:
  explicit WindowedMemory(uint64_t pages) {
    absl::StatusOr<std::unique_ptr<RawUffdMemory>> made =
        RawUffdMemory::Create(pages, RawUffdMemory::Events::kFaultsOnly);
    if (made.ok()) {
      registered_ = *std::move(made);
    } else {
      touched_ = std::make_unique<AnonymousMemory>(pages);
    }
  }

  const char* way() const { return registered_ != nullptr ? "UFFDIO_COPY" : "touched"; }
  HvaRange hvas() const { return memory().range(); }
  Pfn FrameOf(Gfn gfn) const {
    return {(hvas().begin + gfn.value * kPageSize).value >> kPageShift};
  }

  void BringWindowIn(uint64_t first) {
    if (registered_ != nullptr) {
      const bool copied = registered_->CopyZeroes(first, kWindow);
      UNDERFOOT_CHECK(copied, "a window was there already", first, kWindow);
    } else {
      for (uint64_t page = first; page < first + kWindow; ++page) touched_->Touch(page);
    }
    present_ = first + kWindow;
  }
  void DropAll() {
    Discard(hvas());
    present_ = 0;
  }

  // In order: the first page of a window brings it in.
  PageInResult PageIn(Hva page, Access, FaultContext*) override {
    const uint64_t index = (page - hvas().begin) / kPageSize;
    if (index >= present_) BringWindowIn(index / kWindow * kWindow);
    return {PageInOutcome::kPresent, {page.value >> kPageShift}, Access::kWrite};
  }

 private:
  const AnonymousMemory& memory() const {
    return registered_ != nullptr ? registered_->memory() : *touched_;
  }

  uint64_t present_ = 0;  // pages before this one are
  std::unique_ptr<RawUffdMemory> registered_;
  std::unique_ptr<AnonymousMemory> touched_;
};

// A table that is filled page by page after each window has come in.
template <class Table>
class ByWindows {
 public:
  ByWindows(std::shared_ptr<Table> table, WindowedMemory& memory)
      : table_(std::move(table)), memory_(memory) {}

  void PopulateWindow(Gfn first) {
    memory_.BringWindowIn(first.value);
    for (Gfn gfn = first; gfn < first + kWindow; gfn += 1) {
      table_->Map(gfn, memory_.FrameOf(gfn), Access::kWrite);
    }
  }
  void Unmap(GfnRange gfns) { table_->Unmap(gfns); }

 private:
  std::shared_ptr<Table> table_;
  WindowedMemory& memory_;
};

// As the machine does it: memslot, claim, brackets in flight, page source, publication.
class ByFaults {
 public:
  explicit ByFaults(WindowedMemory& memory)
      : memory_(memory), mmu_(memory), reader_(mmu_.readers()) {
    const absl::Status created = mmu_.CreateMemslot(
        {.id = 0, .gfns = {{0}, {memory.hvas().size() / kPageSize}}, .hva = memory.hvas().begin});
    UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused", 0, created.raw_code());
  }

  void PopulateWindow(Gfn first) {
    const RangeFaultResult result =
        mmu_.range_faults().FaultIn(reader_, {first, first + kWindow}, Access::kWrite);
    UNDERFOOT_CHECK(result.outcome == FaultInOutcome::kMapped, "a benchmark's page did not come in",
                    result.reached.value, result.outcome);
  }
  void Unmap(GfnRange gfns) {
    InvalidationScope bracket(mmu_.notifier(),
                              {{memory_.hvas().begin + gfns.begin.value * kPageSize,
                                memory_.hvas().begin + gfns.end.value * kPageSize},
                               InvalidationKind::kUnmap});
  }

 private:
  WindowedMemory& memory_;
  Mmu mmu_;
  Reader reader_;
};

// A sample is a table's worth of pages: windows, and the one table that they share.
template <class Populated>
Variant Populating(std::string name, std::shared_ptr<WindowedMemory> memory,
                   std::shared_ptr<Populated> populated, uint64_t pages) {
  return {.name = std::move(name),
          .run =
              [=](Turn& turn) {
                ArrangeFreeTables(pages / kEntries + kLevels, Temperature::kCold);
                for (Gfn table{0}; table.value < pages; table += kEntries) {
                  turn.Time(kEntries, [&] {
                    for (Gfn gfn = table; gfn < table + kEntries; gfn += kWindow) {
                      populated->PopulateWindow(gfn);
                    }
                  });
                }
                populated->Unmap({{0}, {pages}});
                memory->DropAll();
              },
          .goal = {}};
}

}  // namespace

void BenchStage2Populate(Bench& bench) {
  constexpr char kName[] = "stage2.populate";
  if (!bench.Wants(kName)) return;
  const Pinned pinned(AllowedCpus().front());
  const uint64_t pages = bench.smoke() ? kEntries : kPages;
  const auto memory = std::make_shared<WindowedMemory>(pages);
  Stage2 stage2;
  using Exclusive = ByWindows<ExclusiveTable>;
  using Shared = ByWindows<SharedTable>;
  Comparison comparison{
      .name = kName,
      .what = std::string("a page of a window of 64 that is brought in (") + memory->way() +
              ") and mapped",
      .variants = {
          Populating(
              "exclusive, same pool", memory,
              std::make_shared<Exclusive>(
                  std::make_shared<ExclusiveTable>(ExclusiveTable::Memory::kOfStage2), *memory),
              pages),
          Populating(
              "stage-2", memory,
              std::make_shared<Shared>(std::make_shared<SharedTable>(OwnerTag{1}, stage2), *memory),
              pages),
          Populating("our whole fault path", memory, std::make_shared<ByFaults>(*memory), pages)}};
  for (Variant& variant : comparison.variants) {
    if (&variant != &comparison.variants.front()) {
      variant.goal = {.of = Goal::Of::kRatio, .at_most = 1.05};
    }
  }
  bench.Compare(std::move(comparison));
}

}  // namespace underfoot::bench
