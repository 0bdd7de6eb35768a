#include "tests/bench/bench.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <string_view>
#include <utility>

namespace underfoot::bench {
namespace {

constexpr unsigned kQuickRounds = 2;
constexpr std::string_view kGroups[] = {"cache",   "invalidation", "memslot", "stage2",
                                        "discard", "fault",        "start"};

}  // namespace

Bench::Bench(BenchOptions options) : options_(std::move(options)) {
  results_.machine = MachineInfo::OfThis();
  results_.quick = options_.quick;
  if (options_.json_path != "-") std::cout << MachineText(results_.machine) << std::flush;
}

bool Bench::Wants(std::string_view name) const {
  return name.find(options_.filter) != std::string_view::npos;
}

bool Bench::WantsGroup(std::string_view group) const {
  const std::string_view filter = options_.filter;
  return std::none_of(std::begin(kGroups), std::end(kGroups), [&](std::string_view other) {
    return other != group && filter.starts_with(other) &&
           filter.substr(other.size()).starts_with('.');
  });
}

uint64_t Bench::Operations(uint64_t usual) const {
  return options_.quick ? std::max<uint64_t>(usual / 100, 1) : usual;
}

void Bench::Compare(Comparison comparison) {
  if (!Wants(comparison.name)) return;
  if (options_.rounds != 0) comparison.rounds = options_.rounds;
  if (options_.quick) comparison.rounds = kQuickRounds;
  comparison.keep_disturbed = options_.quick;
  results_.comparisons.push_back(Measure(comparison));
  if (options_.json_path != "-") {
    std::cout << TableOf(results_.comparisons.back()) << std::flush;
  }
}

void Bench::Skip(std::string_view name, std::string_view reason) {
  if (!Wants(name)) return;
  results_.skipped.push_back({std::string(name), std::string(reason)});
  if (options_.json_path != "-") {
    std::cout << "\n" << name << ": skipped, " << reason << "\n" << std::flush;
  }
}

void BenchAll(Bench& bench) {
  BenchCacheAccess(bench);
  BenchReaderWait(bench);
  BenchInvalidation(bench);
  BenchMemslot(bench);
  BenchStage2Map(bench);
  BenchStage2Populate(bench);
  BenchStage2Lookup(bench);
  BenchDiscard(bench);
  BenchHookedCall(bench);
  BenchFault(bench);
  BenchGuestFault(bench);
  BenchKernelSource(bench);
  BenchFirstByte(bench);
}

}  // namespace underfoot::bench
