#include "vmm/devices/event_page.h"

#include <utility>

#include "mmu/base/check.h"
#include "mmu/base/ordering.h"
#include "mmu/base/sync_point.h"

namespace underfoot {
namespace {

abi::EventPage& PageOf(const CacheSection& section) {
  return *reinterpret_cast<abi::EventPage*>(section.data());
}

// The guest reads the words of the page at the same time.
void Store(uint64_t& word, uint64_t value) { std::atomic_ref(word).store(value, kRelease); }

}  // namespace

EventPage::EventPage(Mmu& mmu, std::string name, std::function<void()> wake)
    : cache_(mmu, std::move(name)), wake_(std::move(wake)) {}

absl::Status EventPage::Activate(const Reader& reader, Gpa page) {
  return cache_.Activate(reader, page, sizeof(abi::EventPage), Access::kWrite);
}

EventPage::Delivery EventPage::Send(Reader& reader, unsigned channel) {
  UNDERFOOT_CHECK(channel < kChannels, "an event on no channel", channel, kChannels);
  sent_[channel].fetch_add(1, kRelaxed);
  UNDERFOOT_SYNC_POINT("event-sending");
  if (const CacheSection section = cache_.Check(reader)) {
    Deliver(section, channel, 1);
    return Delivery::kFast;
  }
  HandOver(channel);
  return Delivery::kHandedOver;
}

void EventPage::HandOver(unsigned channel) {
  handed_over_.Add();
  handed_[channel].fetch_add(1, kRelease);
  wake_();
}

void EventPage::Deliver(const CacheSection& section, unsigned channel, uint64_t events) {
  abi::EventPage& page = PageOf(section);
  const uint64_t bit = uint64_t{1} << channel;
  // Pairs with: TakeEvents of the guest, which writes `taken`, has a fence, and reads the count.
  // Without it: the guest reads the old count, this side finds the old bit, and the event stays
  // unnoticed until the next one of the channel.
  std::atomic_ref(page.counts[channel]).fetch_add(events, kStoreLoad);
  UNDERFOOT_SYNC_POINT("event-counted");
  uint64_t turns = turns_[channel].load(kStoreLoad);
  const bool taken = (std::atomic_ref(page.taken).load(kStoreLoad) & bit) == (turns % 2) << channel;
  UNDERFOOT_SYNC_POINT("event-bit-looked");
  if (taken && turns_[channel].compare_exchange_strong(turns, turns + 1, kStoreLoad)) {
    // Release: a guest that sees the turn sees the count. The rest does not depend on its order.
    std::atomic_ref(page.turned).fetch_xor(bit, kRelease);
  }
  section.MarkDirty();
}

bool EventPage::WriteTime(Reader& reader, uint64_t ns, uint64_t steal_ns) {
  const CacheSection section = cache_.Check(reader);
  if (!section) {
    wake_();
    return false;
  }
  time_updates_.Add();
  abi::EventTime& time = PageOf(section).time;
  const uint64_t version = 2 * time_updates_.Get();
  Store(time.version, version - 1);
  Store(time.ns, ns);
  UNDERFOOT_SYNC_POINT("event-time-writing");
  Store(time.steal_ns, steal_ns);
  Store(time.check, abi::TimeCheck({version, ns, steal_ns, 0}));
  Store(time.version, version);
  section.MarkDirty();
  return true;
}

EventPage::Progress EventPage::Visit(Reader& reader, bool last) {
  if (cache_.Refresh(reader) != RefreshOutcome::kValid) return Progress::kAway;
  const CacheSection section = cache_.Check(reader);
  if (!section) return Progress::kAway;
  for (unsigned channel = 0; channel < kChannels; ++channel) {
    // Inside the section: what is taken here is delivered. Relaxed: most are 0.
    if (handed_[channel].load(kRelaxed) == 0) continue;
    const uint64_t events = handed_[channel].exchange(0, kAcquire);
    Deliver(section, channel, events);
    delivered_by_work_.Add(events);
  }
  if (!last) return Progress::kDone;
  abi::EventPage& page = PageOf(section);
  for (unsigned channel = 0; channel < kChannels; ++channel) {
    Store(page.totals[channel], sent_[channel].load(kRelaxed));
  }
  Store(page.closed, 1);
  section.MarkDirty();
  return Progress::kDone;
}

uint64_t EventPage::sent() const {
  uint64_t sum = 0;
  for (const auto& sent : sent_) sum += sent.load(kRelaxed);
  return sum;
}

}  // namespace underfoot
