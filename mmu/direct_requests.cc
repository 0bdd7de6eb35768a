#include "mmu/direct_requests.h"

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/sync_point.h"

namespace underfoot {

void DirectRequests::MarkOverlapping(HvaRange range) {
  // The owner raises the limit before it announces anything. A Begin that reads an older limit read
  // it before the announcement, so the worker finds the range in flight.
  const unsigned limit = limit_.load(kStoreLoad);
  for (unsigned i = 0; i < limit; ++i) {
    std::atomic<uint64_t>& word = lines_[i].word;
    // Pairs with: DirectRequest::TryAnnounce. Without it: the worker finds no bracket, Begin finds
    // no request, and the bytes of the system call are lost with the page that the host takes.
    uint64_t seen = word.load(kStoreLoad);
    while (Key::Overlaps(seen, range) && (seen & kMarked) == 0 &&
           !word.compare_exchange_weak(seen, seen | kMarked, kStoreLoad)) {
    }
  }
}

bool DirectRequests::AnnouncedOver(HvaRange range) const {
  const unsigned limit = limit_.load(kStoreLoad);
  for (unsigned i = 0; i < limit; ++i) {
    // Acquire, by kStoreLoad: after a false answer the caller may use the addresses for other
    // memory, and the system call of the request has returned before that.
    if (Key::Overlaps(lines_[i].word.load(kStoreLoad), range)) return true;
  }
  return false;
}

DirectRequest::DirectRequest(DirectRequests& requests, const InFlightRanges& in_flight,
                             const MemslotTable& memslots)
    : in_flight_(in_flight), memslots_(memslots) {
  for (unsigned i = 0; i < DirectRequests::kMost; ++i) {
    DirectRequests::Line& line = requests.lines_[i];
    // Acquire: the word of the previous owner is 0.
    if (line.owned.exchange(true, kAcquire)) continue;
    unsigned limit = requests.limit_.load(kStoreLoad);
    while (limit <= i && !requests.limit_.compare_exchange_weak(limit, i + 1, kStoreLoad)) {
    }
    line_ = &line;
    return;
  }
}

DirectRequest::~DirectRequest() {
  if (line_ == nullptr) return;
  UNDERFOOT_CHECK(line_->word.load(kRelaxed) == 0, "a worker ends inside a direct request",
                  line_->word.load(kRelaxed), 0);
  // Pairs with: the constructor. Without it: the next owner announces over the last word.
  line_->owned.store(false, kRelease);
}

std::optional<Hva> DirectRequest::TryAnnounce(GfnRange gfns) {
  if (line_ == nullptr || gfns.empty()) return std::nullopt;
  const std::optional<Memslot> slot = memslots_.Find(gfns.begin);
  if (!slot.has_value() || gfns.end > slot->gfns.end || !slot->Grants(Access::kWrite)) {
    return std::nullopt;
  }
  const HvaRange range = slot->HvasOf(gfns);
  UNDERFOOT_SYNC_POINT("direct-not-announced");
  // Pairs with: DirectRequests::MarkOverlapping, called by Begin and by memslot updates. Without
  // it: see there. Nothing else is in the word: the worker makes one request at a time.
  line_->word.exchange(DirectRequests::Key::Pack(range), kStoreLoad);
  UNDERFOOT_SYNC_POINT("direct-announced");
  if (!in_flight_.FindOverlap(range).has_value() && memslots_.IsCurrent(*slot)) {
    return range.begin;
  }
  line_->word.exchange(0, kStoreLoad);
  return std::nullopt;
}

bool DirectRequest::Withdraw() {
  UNDERFOOT_SYNC_POINT("direct-returned");
  // Pairs with: MarkOverlapping, AnnouncedOver. Without it: code that finds no request gives the
  // addresses to other memory, and the last bytes of the call arrive there.
  const uint64_t word = line_->word.exchange(0, kStoreLoad);
  UNDERFOOT_CHECK(word != 0, "a direct request was withdrawn twice", 0, 0);
  return (word & DirectRequests::kMarked) == 0;
}

}  // namespace underfoot
