#include "vmm/sources/hooks/protected_ranges.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace underfoot {

ProtectedRanges::~ProtectedRanges() {
  absl::MutexLock lock(&mutex_);
  for (BracketToken& token : held_) notifier_.End(token);
}

void ProtectedRanges::Announce() {
  count_.fetch_add(1, kAcqRel);
  epoch_.fetch_add(1, kAcqRel);
}

void ProtectedRanges::Hold(BracketToken token) {
  absl::MutexLock lock(&mutex_);
  held_.push_back(std::move(token));
}

void ProtectedRanges::Withdraw(BracketToken token) {
  notifier_.End(token);
  Gone();
}

void ProtectedRanges::Gone() {
  count_.fetch_sub(1, kAcqRel);
  epoch_.fetch_add(1, kAcqRel);
  epoch_.notify_all();
}

std::vector<BracketToken> ProtectedRanges::TakeOverlapping(HvaRange range) {
  absl::MutexLock lock(&mutex_);
  const auto first = std::partition(held_.begin(), held_.end(), [range](const BracketToken& token) {
    return !token.range().Overlaps(range);
  });
  std::vector<BracketToken> taken(std::make_move_iterator(first),
                                  std::make_move_iterator(held_.end()));
  held_.erase(first, held_.end());
  return taken;
}

void ProtectedRanges::Lift(HvaRange range) {
  if (!any() || range.empty()) return;
  for (BracketToken& token : TakeOverlapping(range)) {
    const HvaRange whole = token.range();
    // What stays protected gets brackets of its own before the one over all of it ends.
    for (const HvaRange rest : {HvaRange{whole.begin, std::max(whole.begin, range.begin)},
                                HvaRange{std::min(whole.end, range.end), whole.end}}) {
      if (rest.empty()) continue;
      Announce();
      Hold(notifier_.Begin({rest, InvalidationKind::kUnmap}));
    }
    notifier_.End(token);
    Gone();
  }
}

void ProtectedRanges::WaitForChange() const {
  const uint32_t epoch = epoch_.load(kAcquire);
  if (count_.load(kAcquire) != 0) epoch_.wait(epoch, kAcquire);
}

}  // namespace underfoot
