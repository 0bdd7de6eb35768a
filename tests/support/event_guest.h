// The guest's side of an event page (guest/events.cc), on a thread of a test.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_SUPPORT_EVENT_GUEST_H_
#define UNDERFOOT_TESTS_SUPPORT_EVENT_GUEST_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "guest/abi.h"
#include "mmu/base/ordering.h"

namespace underfoot::testing {

class EventGuest {
 public:
  // The page may be mapped elsewhere later: see SetPage.
  explicit EventGuest(void* page) { SetPage(page); }
  void SetPage(void* page) { page_ = static_cast<abi::EventPage*>(page); }
  abi::EventPage& page() { return *page_; }

  static uint64_t Load(uint64_t& word) { return std::atomic_ref(word).load(kStoreLoad); }

  // The channels that are pending.
  uint64_t Pending() { return Load(page_->turned) ^ taken_; }
  // Takes what is pending, and returns the number of new events.
  uint64_t Take() {
    const uint64_t turned = Load(page_->turned);
    const uint64_t pending = turned ^ taken_;
    taken_ = turned;
    std::atomic_ref(page_->taken).exchange(turned, kStoreLoad);
    uint64_t events = 0;
    for (unsigned channel = 0; channel < abi::kEventChannels; ++channel) {
      if ((pending >> channel & 1) == 0) continue;
      const uint64_t count = Load(page_->counts[channel]);
      events += count - came_[channel];
      came_[channel] = count;
    }
    return events;
  }
  bool closed() { return Load(page_->closed) != 0; }
  // After the close: how many events were lost, or came twice.
  uint64_t Wrong() {
    static_cast<void>(Take());
    uint64_t wrong = 0;
    for (unsigned channel = 0; channel < abi::kEventChannels; ++channel) {
      const uint64_t total = Load(page_->totals[channel]);
      wrong += total > came_[channel] ? total - came_[channel] : came_[channel] - total;
    }
    return wrong;
  }

  // A time that is not torn. Returns false while the VMM writes it.
  bool ReadTime(abi::EventTime* time) {
    const uint64_t version = Load(page_->time.version);
    *time = {version, Load(page_->time.ns), Load(page_->time.steal_ns), Load(page_->time.check)};
    return version % 2 == 0 && version != 0 && Load(page_->time.version) == version;
  }

 private:
  abi::EventPage* page_;
  uint64_t taken_ = 0;
  std::array<uint64_t, abi::kEventChannels> came_{};
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_EVENT_GUEST_H_
