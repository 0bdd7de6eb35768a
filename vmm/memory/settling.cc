#include "vmm/memory/settling.h"

#include <algorithm>
#include <utility>

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

void SettlingRanges::Trim(absl::Time now) {
  while (!entries_.empty() && entries_.front().added + kMemory <= now) entries_.pop_front();
  count_.exchange(entries_.size(), kStoreLoad);
}

// Called for every page that comes in: thousands of entries are remembered under heavy churn, and
// only those since the first that is open are looked at.
template <class Take>
void SettlingRanges::ForEachOpen(HvaRange range, const Take& take) {
  const absl::Time now = now_();
  Trim(now);
  if (entries_.empty()) return;
  first_open_ = std::max(first_open_, entries_.front().number);
  const auto at = [this](uint64_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> Entry& {
    return entries_[number - entries_.front().number];
  };
  while (first_open_ <= last_ && at(first_open_).until <= now) ++first_open_;
  for (uint64_t number = last_; number >= first_open_; --number) {
    Entry& entry = at(number);
    if (entry.until > now && entry.range.Overlaps(range) && !take(entry)) return;
  }
}

uint64_t SettlingRanges::Add(HvaRange range, int64_t told_ns) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_.emplace_back();
  entry.number = ++last_;
  entry.range = range;
  entry.told_ns = told_ns;
  entry.added = now_();
  entry.until = entry.added + (expects_records_ ? std::max(bound_, kWithoutRecord) : bound_);
  count_.exchange(entries_.size(), kStoreLoad);
  return last_;
}

void SettlingRanges::ExpectRecords(bool expect) {
  absl::MutexLock lock(&mutex_);
  expects_records_ = expect;
}

void SettlingRanges::Passed(HvaRange range, int64_t told_ns) {
  absl::MutexLock lock(&mutex_);
  ForEachOpen(range, [&](Entry& entry) {
    if (entry.told_ns != told_ns || !(RoundOutToPages(entry.range) == range)) return true;
    entry.until = absl::InfinitePast();
    passed_.fetch_add(1, kRelaxed);
    return false;
  });
}

void SettlingRanges::RecordsLost() {
  absl::MutexLock lock(&mutex_);
  const absl::Time until = now_() + bound_;
  for (Entry& entry : entries_) entry.until = std::min(entry.until, until);
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
  ForEachOpen(range, [](Entry& entry) {
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
  ForEachOpen(PageRangeOf(page), [&](Entry& entry) {
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
  ForEachOpen(range, [&](const Entry& entry) {
    settling = entry.SettlesOn(range);
    return !settling;
  });
  return settling;
}

bool SettlingRanges::Explains(HvaRange range) {
  if (Nothing()) return false;
  absl::MutexLock lock(&mutex_);
  Trim(now_());
  return std::any_of(entries_.rbegin(), entries_.rend(),
                     [range](const Entry& entry) { return entry.range.Overlaps(range); });
}

}  // namespace underfoot
