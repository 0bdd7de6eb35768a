// An event page (abi::EventPage) as the VMM writes it: through a pfn cache, by senders that must not
// block.
//
//   Send, any thread, never blocks            Work, one thread, may sleep
//   counts the event                          refreshes the cache
//   Check: a section of the cache?            Check: a section of the cache?
//     yes: delivers the event                   yes: takes what was handed over, and delivers it
//     no: hands the event over, and wakes       no: returns kAway; what was handed over stays
//
// To deliver is: add to the channel's count; if the guest has taken the channel's bit, turn the bit;
// mark the page dirty. All of it happens in one section. So a Begin over the page comes before all of
// it or after all of it, and no event goes to a page that the host has taken.
//
// *No event is lost, and none comes twice.* An event is delivered by Send or handed over, and what is
// handed over is taken by an exchange inside the section that delivers it. The count grows before the
// look at the guest's bit, and the guest writes its bit before it reads the count, all in one order
// (kStoreLoad). So if the guest's next look at the count comes too early for an event, the sender finds
// the bit taken and turns it. Two senders turn a bit once: each turn is a compare-and-exchange of
// `turns_`, which counts up. A sender that loses it has counted its event before the other one turned
// the bit, so the take of that turn finds the event.
//
// Thread safety: any thread calls Send, with its own Reader. One thread calls Activate, Work, Close and
// Deactivate, and one WriteTime. Nothing may be sent during or after Close.
// Invariants: I1 and I8, by the pfn cache.
// After: kvm_xen_set_evtchn_fast and kvm_xen_set_evtchn in arch/x86/kvm/xen.c of Linux. There the guest
// clears the bit, by a locked instruction. Here each word has one writer, because KVM emulates an
// access to a memslot that is away, and then a locked instruction is none.

#ifndef UNDERFOOT_VMM_DEVICES_EVENT_PAGE_H_
#define UNDERFOOT_VMM_DEVICES_EVENT_PAGE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "guest/abi.h"
#include "mmu/base/stats.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "mmu/readers/reader.h"

namespace underfoot {

class EventPage {
 public:
  static constexpr unsigned kChannels = abi::kEventChannels;

  enum class [[nodiscard]] Delivery : uint8_t{kFast, kHandedOver};
  enum class [[nodiscard]] Progress : uint8_t{
      kDone,
      kAway,  // the page cannot be reached now; call again later
  };

  // `wake` has Work called soon, by the thread that may sleep. It must not block.
  EventPage(Mmu& mmu, std::string name, std::function<void()> wake);
  ~EventPage() { Deactivate(); }
  EventPage(const EventPage&) = delete;
  EventPage& operator=(const EventPage&) = delete;

  // NotFound, Unavailable: the page cannot be reached now. Without memory: std::bad_alloc.
  [[nodiscard]] absl::Status Activate(const Reader& reader, Gpa page);
  void Deactivate() { cache_.Deactivate(); }

  Delivery Send(Reader& reader, unsigned channel);

  // Never blocks. If the cache is not valid, wakes the worker and returns false; the caller does not
  // repeat the call, because its next one writes a newer time.
  bool WriteTime(Reader& reader, uint64_t ns, uint64_t steal_ns);

  // Brings the page in and delivers what was handed over. Without memory: std::bad_alloc.
  Progress Work(Reader& reader) { return Visit(reader, false); }
  // As Work, and writes the totals and `closed`. Not called again after it has returned kDone.
  Progress Close(Reader& reader) { return Visit(reader, true); }

  uint64_t sent() const;  // all events
  uint64_t handed_over() const { return handed_over_.Get(); }
  uint64_t delivered_by_work() const { return delivered_by_work_.Get(); }
  uint64_t time_updates() const { return time_updates_.Get(); }
  PfnCache::Description cache() const { return cache_.Describe(); }

 private:
  Progress Visit(Reader& reader, bool last);
  void Deliver(const CacheSection& section, unsigned channel, uint64_t events);
  void HandOver(unsigned channel);

  PfnCache cache_;
  const std::function<void()> wake_;
  // Relaxed: a total that is read when nothing is sent any more, or for statistics.
  std::array<std::atomic<uint64_t>, kChannels> sent_{};
  // Pairs with: HandOver, Visit. What the sender did before it woke the worker is seen by the worker.
  std::array<std::atomic<uint64_t>, kChannels> handed_{};
  // How often the bit of the channel was turned. The lowest bit is the one in the page.
  std::array<std::atomic<uint64_t>, kChannels> turns_{};
  Counter handed_over_;
  Counter delivered_by_work_;
  OwnedCounter time_updates_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_EVENT_PAGE_H_
