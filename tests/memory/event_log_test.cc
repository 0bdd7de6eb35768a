#include "vmm/evidence/event_log.h"

#include <gtest/gtest.h>

#include <vector>

namespace underfoot {
namespace {

HostEvent EventAt(uint64_t page, EventSource source = EventSource::kUffd) {
  HostEvent event;
  event.source = source;
  event.range = PageRangeOf(Hva{page << kPageShift});
  return event;
}

TEST(EventLogTest, NumbersEventsInTheOrderOfTheirArrival) {
  EventLog log;
  for (uint64_t page = 0; page < 3; ++page) log.Report(EventAt(page));
  const std::vector<NumberedEvent> events = log.Since(1, 10);
  ASSERT_EQ(events.size(), 2);
  EXPECT_EQ(events[0].number, 1);
  EXPECT_EQ(events[0].event.range, EventAt(1).range);
  EXPECT_EQ(events[1].number, 2);
  EXPECT_EQ(log.end(), 3);
}

TEST(EventLogTest, ReturnsAtMostTheRequestedNumber) {
  EventLog log;
  for (uint64_t page = 0; page < 3; ++page) log.Report(EventAt(page));
  EXPECT_EQ(log.Since(0, 2).size(), 2);
}

TEST(EventLogTest, DropsTheOldestAndShowsTheGap) {
  EventLog log;
  for (uint64_t page = 0; page < EventLog::kCapacity + 5; ++page) log.Report(EventAt(page));
  const std::vector<NumberedEvent> events = log.Since(0, 1);
  ASSERT_EQ(events.size(), 1);
  EXPECT_EQ(events[0].number, 5);
}

TEST(EventLogTest, PassesEachEventOn) {
  struct Last final : HostEventSink {
    void Report(const HostEvent& event) override { range = event.range; }
    HvaRange range;
  };
  Last last;
  EventLog log(&last);
  log.Report(EventAt(9));
  EXPECT_EQ(last.range, EventAt(9).range);
}

}  // namespace
}  // namespace underfoot
