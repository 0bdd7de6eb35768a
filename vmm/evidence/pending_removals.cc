#include "vmm/evidence/pending_removals.h"

#include <algorithm>
#include <utility>

namespace underfoot {

bool PendingRemovals::Entry::IsPendingOn(HvaRange pages) const {
  if (settled.empty()) return true;
  const HvaRange common = RoundOutToPages(range).Intersect(RoundOutToPages(pages));
  for (Hva page = common.begin; page < common.end; page += kPageSize) {
    if (!settled[IndexOf(page)]) return true;
  }
  return false;
}

void PendingRemovals::Entry::ShareEvidence(HvaRange pages) {
  const HvaRange own = RoundOutToPages(range);
  const HvaRange common = own.Intersect(RoundOutToPages(pages));
  if (noted) {
    for (Hva page = common.begin; page < common.end && !there.empty(); page += kPageSize) {
      there[IndexOf(page)] = false;
    }
  } else if (common == own) {
    DiscardEvidence();
  } else {
    shared.push_back(common);
  }
}

PendingRemovals::Entry* PendingRemovals::Find(uint64_t number) {
  if (entries_.empty() || number < entries_.front().number) return nullptr;
  return &entries_[number - entries_.front().number];
}

void PendingRemovals::Trim(absl::Time now) {
  while (!entries_.empty() && entries_.front().added + kMemory <= now) entries_.pop_front();
  count_.exchange(entries_.size(), kStoreLoad);
}

// Called for every page that is faulted in. Under heavy churn thousands of entries are remembered;
// therefore only the entries from the first open one on are examined.
template <class Take>
void PendingRemovals::ForEachOpen(HvaRange range, const Take& take) {
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

uint64_t PendingRemovals::Add(HvaRange range, int64_t reported_ns) {
  absl::MutexLock lock(&mutex_);
  Entry added;
  added.range = range;
  ForEachOpen(RoundOutToPages(range), [&](Entry& other) {
    if (!other.IsPendingOn(range)) return true;
    other.ShareEvidence(range);
    // A process that removes one page in a closed loop has thousands of removals open.
    if (!added.evidence_discarded) added.ShareEvidence(other.range);
    return true;
  });
  added.number = ++last_;
  added.reported_ns = reported_ns;
  added.added = now_();
  added.until = added.added + (expects_records_ ? std::max(bound_, kWithoutRecord) : bound_);
  entries_.push_back(std::move(added));
  count_.exchange(entries_.size(), kStoreLoad);
  return last_;
}

void PendingRemovals::ExpectRecords(bool expect) {
  absl::MutexLock lock(&mutex_);
  expects_records_ = expect;
}

void PendingRemovals::Complete(HvaRange range, int64_t reported_ns) {
  absl::MutexLock lock(&mutex_);
  ForEachOpen(range, [&](Entry& entry) {
    if (entry.reported_ns != reported_ns || !(RoundOutToPages(entry.range) == range)) return true;
    entry.until = absl::InfinitePast();
    passed_.fetch_add(1, kRelaxed);
    return false;
  });
}

void PendingRemovals::RecordsLost() {
  absl::MutexLock lock(&mutex_);
  const absl::Time until = now_() + bound_;
  for (Entry& entry : entries_) entry.until = std::min(entry.until, until);
}

void PendingRemovals::NotePresent(uint64_t removal, std::vector<bool> there) {
  absl::MutexLock lock(&mutex_);
  Entry* const entry = Find(removal);
  if (entry == nullptr) return;
  entry->noted = true;
  const std::vector<HvaRange> shared = std::exchange(entry->shared, {});
  if (entry->evidence_discarded || there.empty()) return;
  entry->settled.resize(there.size());
  entry->there = std::move(there);
  for (const HvaRange other : shared) entry->ShareEvidence(other);
  entry->note = presence_notes_.fetch_add(1, kAcqRel) + 1;
}

void PendingRemovals::DiscardEvidence(HvaRange range) {
  if (None()) return;
  absl::MutexLock lock(&mutex_);
  ForEachOpen(range, [](Entry& entry) {
    entry.DiscardEvidence();
    return true;
  });
}

void PendingRemovals::Reopen(HvaRange range) {
  if (None()) return;
  absl::MutexLock lock(&mutex_);
  ForEachOpen(range, [](Entry& entry) {
    entry.DiscardEvidence();
    entry.settled.assign(entry.settled.size(), false);
    return true;
  });
}

void PendingRemovals::NoteAbsent(Hva page, uint64_t before) {
  if (None()) return;
  // The order is: look at the page, check that no handler reads events, search the entries. A
  // removal that was read before the look is then among the entries, as open or as passed.
  if (!reads_.None()) return;
  absl::MutexLock lock(&mutex_);
  Entry* only = nullptr;
  unsigned found = 0;
  ForEachOpen(PageRangeOf(page), [&](Entry& entry) {
    only = &entry;
    ++found;
    return true;
  });
  if (found != 1 || only->note == 0 || only->note > before) return;
  const uint64_t index = only->IndexOf(page);
  if (!only->there[index] || only->settled[index]) return;
  only->settled[index] = true;
  settled_.fetch_add(1, kRelaxed);
}

bool PendingRemovals::Pending(HvaRange range) {
  if (None()) return false;
  absl::MutexLock lock(&mutex_);
  bool pending = false;
  ForEachOpen(range, [&](const Entry& entry) {
    pending = entry.IsPendingOn(range);
    return !pending;
  });
  return pending;
}

bool PendingRemovals::Explains(HvaRange range) {
  if (None()) return false;
  absl::MutexLock lock(&mutex_);
  Trim(now_());
  return std::any_of(entries_.rbegin(), entries_.rend(),
                     [range](const Entry& entry) { return entry.range.Overlaps(range); });
}

}  // namespace underfoot
