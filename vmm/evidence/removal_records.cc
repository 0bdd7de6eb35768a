#include "vmm/evidence/removal_records.h"

#include <algorithm>
#include <utility>

namespace underfoot {
namespace {

// How long after the report of a removal its record may be stamped. A later record is foreign, which
// costs an invalidation.
constexpr int64_t kRemovalNs = 50'000'000;

}  // namespace

void RemovalRecords::Reported(HvaRange range, int64_t read_ns) {
  range = RoundOutToPages(range);
  const Entry entry{{range, read_ns}, range.Intersect(ram_), range.size()};
  absl::MutexLock lock(&mutex_);
  removals_.push_back(entry);
  if (removals_.size() > kKept) removals_.pop_front();
  const auto record = std::find_if(early_.begin(), early_.end(), [&](const Record& early) {
    return early.pages == entry.pages && read_ns <= early.time_ns;
  });
  if (record == early_.end()) return;
  early_.erase(record);
  recorded_.push_back(entry.removal);
}

bool RemovalRecords::Explains(HvaRange pages, int64_t time_ns, bool may_be_zap) {
  absl::MutexLock lock(&mutex_);
  const auto explains = [&](const Entry& entry) {
    return entry.removal.range.Contains(pages) && entry.bytes_left >= pages.size() &&
           entry.removal.read_ns >= time_ns - kRemovalNs;
  };
  const auto is_its_zap = [&](const Entry& entry) {
    return explains(entry) && entry.pages == pages && entry.removal.read_ns <= time_ns;
  };
  auto entry = std::find_if(removals_.begin(), removals_.end(), is_its_zap);
  if (entry != removals_.end()) {
    if (may_be_zap) recorded_.push_back(entry->removal);
  } else {
    entry = std::find_if(removals_.begin(), removals_.end(), explains);
    if (entry == removals_.end()) {
      if (may_be_zap) early_.push_back({pages, time_ns});
      if (early_.size() > kKept) early_.pop_front();
      return false;
    }
  }
  entry->bytes_left -= pages.size();
  return true;
}

std::vector<RemovalRecords::Removal> RemovalRecords::TakeRecorded() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(recorded_, {});
}

}  // namespace underfoot
