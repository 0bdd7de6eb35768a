#include "vmm/memory/settling.h"

#include <utility>

#include "absl/time/clock.h"
#include "mmu/mutant.h"

namespace underfoot {

bool SettlingRanges::Entry::SettlesOn(HvaRange pages) const {
  if (settled.empty()) return true;
  const HvaRange common = RoundOutToPages(range).Intersect(RoundOutToPages(pages));
  for (Hva page = common.begin; page < common.end; page += kPageSize) {
    if (!settled[IndexOf(page)]) return true;
  }
  return false;
}

// Called for every page that comes in: thousands of entries are remembered under heavy churn, and
// only those within `age` are looked at.
template <class Take>
void SettlingRanges::ForEach(HvaRange range, absl::Duration age, const Take& take) {
  const absl::Time now = absl::Now();
  while (!entries_.empty() && entries_.front().added + kMemory <= now) entries_.pop_front();
  count_.exchange(entries_.size(), kStoreLoad);
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    if (entry->added + age <= now) return;
    if (entry->range.Overlaps(range) && !take(*entry)) return;
  }
}

uint64_t SettlingRanges::Add(HvaRange range) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.emplace_back();
  entry.number = ++last_;
  entry.range = range;
  entry.added = absl::Now();
  count_.exchange(entries_.size(), kStoreLoad);
  return last_;
}

void SettlingRanges::Witness(uint64_t removal, std::vector<bool> there) {
  absl::MutexLock lock(&mutex_);
  if (entries_.empty() || entries_.back().number != removal) return;
  Entry& entry = entries_.back();
  if (entry.spoiled || there.empty()) return;
  entry.settled.resize(there.size());
  entry.there = std::move(there);
  entry.witnessed = witnesses_.fetch_add(1, kAcqRel) + 1;
}

void SettlingRanges::Spoil(HvaRange range) {
  if (Nothing() || UNDERFOOT_MUTANT("own-bracket-is-evidence")) return;
  absl::MutexLock lock(&mutex_);
  ForEach(range, bound_, [](Entry& entry) {
    entry.spoiled = true;
    entry.witnessed = 0;
    return true;
  });
}

void SettlingRanges::SawAbsent(Hva page, uint64_t before) {
  if (Nothing()) return;
  absl::MutexLock lock(&mutex_);
  Entry* only = nullptr;
  unsigned found = 0;
  ForEach(PageRangeOf(page), bound_, [&](Entry& entry) {
    only = &entry;
    ++found;
    return true;
  });
  if (found != 1 || only->witnessed == 0 || only->witnessed > before) return;
  const uint64_t index = only->IndexOf(page);
  if (!only->there[index] || only->settled[index]) return;
  only->settled[index] = true;
  settled_.fetch_add(1, kRelaxed);
}

bool SettlingRanges::Settling(HvaRange range) {
  if (Nothing()) return false;
  absl::MutexLock lock(&mutex_);
  bool settling = false;
  ForEach(range, bound_, [&](const Entry& entry) {
    settling = entry.SettlesOn(range);
    return !settling;
  });
  return settling;
}

bool SettlingRanges::Explains(HvaRange range) {
  if (Nothing()) return false;
  absl::MutexLock lock(&mutex_);
  bool explains = false;
  ForEach(range, kMemory, [&](const Entry&) {
    explains = true;
    return false;
  });
  return explains;
}

}  // namespace underfoot
