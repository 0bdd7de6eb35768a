#include "guest/events.h"

#include <cstddef>

#include "guest/barrier.h"

namespace underfoot::guest {
namespace {

struct Page {
  uint64_t gpa;  // 0: the VMM has not taken it
  uint16_t port;
  uint64_t taken;                      // as this side has written it
  uint64_t came[abi::kEventChannels];  // the events that have come
};
constinit Page vm_page{};
constinit Page own_pages[abi::kMaxVcpus] = {};

// What a vCPU has read last: the times only grow.
struct Seen {
  abi::EventTime vm;
  abi::EventTime own;
};
constinit Seen seen_times[abi::kMaxVcpus] = {};

uint64_t CountOf(const Page& page, uint64_t channel) {
  return page.gpa + offsetof(abi::EventPage, counts) + channel * sizeof(uint64_t);
}
uint64_t TotalOf(const Page& page, uint64_t channel) {
  return page.gpa + offsetof(abi::EventPage, totals) + channel * sizeof(uint64_t);
}

// Other vCPUs read the gpa of the VM-wide page.
void Give(Page& page, uint64_t gpa, uint16_t port) {
  for (uint64_t at = 0; at < sizeof(abi::EventPage); at += sizeof(uint64_t)) Store(gpa + at, 0);
  Out32(port, static_cast<uint32_t>(gpa / kPageBytes));
  if (In32(port) != 1) return;
  page.port = port;
  Poke(page.gpa, gpa);
}

void CheckTime(Context& context, uint64_t page, abi::EventTime& seen) {
  const uint64_t version = page + offsetof(abi::EventPage, time.version);
  abi::EventTime now;
  now.version = Load(version);
  now.ns = Load(page + offsetof(abi::EventPage, time.ns));
  now.steal_ns = Load(page + offsetof(abi::EventPage, time.steal_ns));
  now.check = Load(page + offsetof(abi::EventPage, time.check));
  if (now.version % 2 != 0 || Load(version) != now.version || now.version == 0) return;
  if (now.version < seen.version) {
    MismatchAt(context, version, seen.version, now.version, abi::MismatchKind::kEventTime);
  }
  if (now.ns < seen.ns) {
    MismatchAt(context, page + offsetof(abi::EventPage, time.ns), seen.ns, now.ns,
               abi::MismatchKind::kEventTime);
  }
  if (now.steal_ns < seen.steal_ns) {
    MismatchAt(context, page + offsetof(abi::EventPage, time.steal_ns), seen.steal_ns, now.steal_ns,
               abi::MismatchKind::kEventTime);
  }
  if (now.check != abi::TimeCheck(now)) {
    MismatchAt(context, page + offsetof(abi::EventPage, time.check), abi::TimeCheck(now), now.check,
               abi::MismatchKind::kEventTime);
  }
  seen = now;
}

void TakeEvents(Context& context, Page& page) {
  const uint64_t turned = Load(page.gpa + offsetof(abi::EventPage, turned));
  const uint64_t pending = turned ^ page.taken;
  if (pending == 0) return;
  page.taken = turned;
  Store(page.gpa + offsetof(abi::EventPage, taken), turned);
  // The VMM counts an event and then looks at `taken`; here it is the other way round. So either the
  // VMM turns the bit once more, or its event is in the count that is read now.
  StoreLoadFence();
  for (uint64_t channel = 0; channel < abi::kEventChannels; ++channel) {
    if ((pending >> channel & 1) == 0) continue;
    const uint64_t count = Load(CountOf(page, channel));
    const uint64_t before = page.came[channel];
    if (count < before) {
      MismatchAt(context, CountOf(page, channel), before, count, abi::MismatchKind::kEventLost);
    } else {
      Add(context.report.events_taken, count - before);
    }
    page.came[channel] = count;
  }
}

void Finish(Context& context, Page& page, abi::EventTime& seen) {
  Out32(page.port, 0);
  Spinner spinner(context);
  while (Load(page.gpa + offsetof(abi::EventPage, closed)) == 0) spinner.Wait();
  TakeEvents(context, page);
  for (uint64_t channel = 0; channel < abi::kEventChannels; ++channel) {
    const uint64_t total = Load(TotalOf(page, channel));
    const uint64_t came = page.came[channel];
    if (came == total) continue;
    MismatchAt(context, CountOf(page, channel), total, came,
               came < total ? abi::MismatchKind::kEventLost : abi::MismatchKind::kEventTwice);
  }
  CheckTime(context, page.gpa, seen);
  if (seen.version != 0) return;
  MismatchAt(context, page.gpa, 2, 0, abi::MismatchKind::kEventTime);
}

}  // namespace

void SetUpEvents(Context& context, uint64_t pages) {
  if (In32(abi::kVmEventPort) == ~uint32_t{0}) return;
  if (context.vcpu == 0) Give(vm_page, pages, abi::kVmEventPort);
  Give(own_pages[context.vcpu], pages + (context.vcpu + 1) * kPageBytes, abi::kVcpuEventPort);
}

void EventsRound(Context& context) {
  Page& own = own_pages[context.vcpu];
  Seen& seen = seen_times[context.vcpu];
  if (own.gpa != 0) {
    TakeEvents(context, own);
    CheckTime(context, own.gpa, seen.own);
  }
  const uint64_t vm = Peek(vm_page.gpa);
  if (vm == 0) return;
  if (context.vcpu == 0) TakeEvents(context, vm_page);
  CheckTime(context, vm, seen.vm);
}

void FinishEvents(Context& context) {
  Seen& seen = seen_times[context.vcpu];
  if (own_pages[context.vcpu].gpa != 0) Finish(context, own_pages[context.vcpu], seen.own);
  if (context.vcpu == 0 && vm_page.gpa != 0) Finish(context, vm_page, seen.vm);
}

bool HasEventPage(const Context& context) { return own_pages[context.vcpu].gpa != 0; }

}  // namespace underfoot::guest
