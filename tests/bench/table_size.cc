// The memory of stage-2 tables, as a share of what is mapped sparsely over 64 GiB of guest memory. The
// mapped pieces lie 64 MiB apart.
//
// The figure is a count and has no spread. The floor is an entry of 8 bytes for each page of 4 KiB,
// and the 128 bytes of counts that each table of 512 entries has. A table that is mapped in part
// costs as much as a full one, so pieces below 2 MiB cost more a page.

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "mmu/stage2/stage2.h"
#include "mmu/stage2/table.h"
#include "tests/bench/bench.h"
#include "tests/bench/shared_table.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kAllPages = (uint64_t{64} << 30) >> kPageShift;
constexpr uint64_t kApart = (uint64_t{64} << 20) >> kPageShift;

Variant Mapped(std::string name, uint64_t pages) {
  return {.name = std::move(name),
          .run =
              [pages](Turn& turn) {
                Stage2 stage2;
                SharedTable table(OwnerTag{1}, stage2);
                uint64_t mapped = 0;
                for (Gfn piece{0}; piece < Gfn{kAllPages}; piece += kApart) {
                  for (uint64_t i = 0; i < pages; ++i) table.Map(piece + i, {1}, Access::kWrite);
                  mapped += pages;
                }
                const auto bytes = static_cast<double>(stage2.Stats().tables * sizeof(Table));
                turn.Record(100 * bytes / static_cast<double>(mapped * kPageSize));
              },
          .goal = {}};
}

}  // namespace

void BenchTableSize(Bench& bench) {
  Variant whole = Mapped("pieces of 2 MiB", kEntries);
  whole.goal = {.of = Goal::Of::kMedianNs, .at_most = 0.3};
  bench.Compare({.name = "stage2.table_size",
                 .what = "the tables' share of what is mapped in pieces, 64 MiB apart over 64 GiB",
                 .variants = {std::move(whole), Mapped("pieces of 256 KiB", 64),
                              Mapped("pieces of 4 KiB", 1)},
                 .rounds = 2,
                 .unit = "%"});
}

}  // namespace underfoot::bench
