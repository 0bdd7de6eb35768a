#include "tests/bench/bench.h"

#include <algorithm>
#include <iostream>
#include <iterator>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"

namespace underfoot::bench {
namespace {

constexpr unsigned kSmokeRounds = 1;
constexpr unsigned kQuickShare = 4;  // of the rounds of a full run

// `name` is how the names of all its comparisons begin, up to the first dot. `seconds` is the time
// that a full run takes; the forecast of the time left is made of it.
struct Group {
  std::string_view name;
  void (*run)(Bench& bench);
  double seconds;
};

// One a line.
// clang-format off
constexpr Group kGroups[] = {
    {"cache", BenchCacheAccess, 8},
    {"cache", BenchReaderWait, 8},
    {"cache", BenchStatisticsCost, 3},
    {"invalidation", BenchInvalidation, 12},
    {"precheck", BenchPrecheck, 40},
    {"retry", BenchRetryRules, 60},
    {"memslot", BenchMemslot, 30},
    {"memslot", BenchHungPageIn, 2},
    {"memslot", BenchHungGuest, 10},
    {"stage2", BenchStage2Map, 20},
    {"stage2", BenchStage2Splits, 5},
    {"stage2", BenchTableSize, 1},
    {"stage2", BenchStage2Populate, 10},
    {"stage2", BenchStage2Teardown, 15},
    {"stage2", BenchStage2Chunks, 60},
    {"retire", BenchRetire, 30},
    {"stage2", BenchStage2Lookup, 10},
    {"discard", BenchDiscard, 15},
    {"discard", BenchRemovals, 30},
    {"device", BenchDeviceRequests, 3},
    {"device", BenchProtectedRequests, 15},
    {"event", BenchEventSend, 2},
    {"hooked_call", BenchHookedCall, 5},
    {"fault", BenchFault, 10},
    {"fault", BenchGuestFault, 30},
    {"fault", BenchHugeFault, 120},
    {"kernel", BenchKernelSource, 5},
    {"kernel", BenchVainInvalidations, 10},
    {"working_set", BenchWorkingSet, 15},
    {"start", BenchFirstByte, 10},
    {"peers", BenchPeers, 60},
};
// clang-format on

std::chrono::nanoseconds TimeLimit(Effort effort) {
  return effort == Effort::kQuick ? std::chrono::seconds(2) : std::chrono::seconds(30);
}

double Seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

std::string MinutesText(double seconds) {
  const auto whole = static_cast<uint64_t>(seconds);
  return absl::StrFormat("%d:%02d", whole / 60, whole % 60);
}

}  // namespace

Bench::Bench(BenchOptions options) : options_(std::move(options)) {
  results_.machine = MachineInfo::OfThis();
  results_.commit = options_.commit;
  results_.effort = options_.effort;
  results_.processes = options_.processes;
  results_.seed = options_.seed;
  if (prints()) std::cout << MachineText(results_.machine) << std::flush;
}

bool Bench::Wants(std::string_view name) const {
  return options_.filters.empty() ||
         std::any_of(
             options_.filters.begin(), options_.filters.end(),
             [&](std::string_view filter) { return name.find(filter) != std::string_view::npos; });
}

// A filter that begins with the name of another group and a dot, as in "stage2.map", fits nothing
// here. The objects of this group need not be built then.
bool Bench::WantsGroup(std::string_view group) const {
  const auto is_of_another = [group](std::string_view filter) {
    return std::any_of(std::begin(kGroups), std::end(kGroups), [&](const Group& other) {
      return other.name != group && filter.starts_with(other.name) &&
             filter.substr(other.name.size()).starts_with('.');
    });
  };
  return options_.filters.empty() ||
         !std::all_of(options_.filters.begin(), options_.filters.end(), is_of_another);
}

uint64_t Bench::Operations(uint64_t usual) const {
  return smoke() ? std::max<uint64_t>(usual / 100, 1) : usual;
}

void Bench::Compare(Comparison comparison) {
  if (!Wants(comparison.name)) return;
  ShowProgress(comparison.name);
  switch (options_.effort) {
    case Effort::kFull:
      break;
    case Effort::kQuick:
      comparison.rounds = std::max(comparison.rounds / kQuickShare, kLeastRounds);
      break;
    case Effort::kSmoke:
      comparison.rounds = kSmokeRounds;
      break;
  }
  comparison.time_limit = TimeLimit(options_.effort);
  if (options_.rounds != 0) {
    comparison.rounds = options_.rounds;
    comparison.time_limit = std::chrono::nanoseconds::max();
  }
  comparison.smoke = smoke();
  const unsigned least = options_.rounds == 0 && !smoke() ? kLeastRounds : 1;
  comparison.rounds =
      std::max((comparison.rounds + options_.processes - 1) / options_.processes, least);
  comparison.time_limit /= options_.processes;
  const Rounds& rounds = rounds_[comparison.name] = TakeRounds(comparison);
  results_.comparisons.push_back(ResultOf(comparison, rounds));
  results_.others = OthersShare(began_, CpuSeconds::Now());
  if (prints()) std::cout << TableOf(results_.comparisons.back()) << std::flush;
  SaveWhatThereIs();
}

void Bench::Add(const RoundsOfAll& rounds) {
  for (ComparisonResult& comparison : results_.comparisons) {
    const auto more = rounds.find(comparison.name);
    if (more == rounds.end() || more->second.variants.size() != comparison.variants.size())
      continue;
    Rounds& all = rounds_[comparison.name];
    Append(all, more->second);
    Update(comparison, all);
  }
  results_.others = OthersShare(began_, CpuSeconds::Now());
  SaveWhatThereIs();
}

// If that fails, it fails at the end of the run too, and is reported there.
void Bench::SaveWhatThereIs() const {
  if (prints() && !options_.json_path.empty()) {
    static_cast<void>(SaveJson(options_.json_path, results_));
  }
}

void Bench::Skip(std::string_view name, std::string_view reason) {
  if (!Wants(name)) return;
  results_.skipped.push_back({std::string(name), std::string(reason)});
  if (prints()) std::cout << "\n" << name << ": skipped, " << reason << "\n" << std::flush;
}

void Bench::RunAll() {
  seconds_left_ = 0;
  for (const Group& group : kGroups) {
    if (WantsGroup(group.name)) seconds_left_ += group.seconds;
  }
  for (const Group& group : kGroups) {
    if (!WantsGroup(group.name)) continue;
    group.run(*this);
    seconds_left_ -= group.seconds;
    seconds_done_ += group.seconds;
  }
}

// The forecast assumes that what is left runs as fast, compared with a full run, as what was done.
void Bench::ShowProgress(std::string_view name) const {
  if (smoke()) return;
  const double gone = Seconds(std::chrono::steady_clock::now() - start_);
  const double pace = seconds_done_ > 0                   ? gone / seconds_done_
                      : options_.effort == Effort::kQuick ? 1.0 / kQuickShare
                                                          : 1;
  std::cerr << "[" << MinutesText(gone) << " gone, at most " << MinutesText(pace * seconds_left_)
            << " left] " << name << "\n";
}

}  // namespace underfoot::bench
