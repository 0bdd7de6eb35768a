// The virtio devices of whole machines, driven by the guest while its memory is churned: judged by
// the guest, by the file behind the disk, and by the statistics.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/boot/machine_fixture.h"
#include "tests/boot/machine_options.h"
#include "tests/control/scratch.h"
#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/base/unique_fd.h"
#include "vmm/boot/guest_report.h"
#include "vmm/evidence/event_log.h"
#include "vmm/machine/machine.h"
#include "vmm/ram/pagemap.h"

namespace underfoot::testing {
namespace {

class DevicesBootTest : public MachineTest,
                        public ::testing::WithParamInterface<std::tuple<Backing, uint32_t>> {
 protected:
  void SetUp() override {
    MachineTest::SetUp();
    if (IsSkipped()) return;
    std::tie(options_.backing, options_.vcpus) = GetParam();
    options_.memory_bytes = uint64_t{48} << 20;
    options_.seed = 11;
    options_.name = "test";
  }

  std::string MakeDisk(uint64_t bytes) {
    const std::string path = scratch_ / "disk";
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    return path;
  }
  void Start() { MachineTest::Start(options_); }
  uint64_t BytesToDisk() {
    uint64_t bytes = 0;
    for (const DeviceInfo& device : machine_->devices().virtio) {
      if (device.name != "blk") continue;
      for (const DeviceQueueInfo& queue : device.queues) bytes += queue.from_guest_bytes;
    }
    return bytes;
  }
  abi::Report Report() {
    return GuestReports(machine_->memory().slots().front().hva, options_.vcpus).Total();
  }
  void OnLine(std::string_view line) override { text_ += std::string(line) + "\n"; }
  void FinishWell() {
    const absl::Status finished = machine_->Finish();
    EXPECT_TRUE(finished.ok()) << finished << "\n" << text_;
    const Stats stats = machine_->GetStats();
    EXPECT_EQ(stats.guest.verdict, GuestVerdict::kGood);
    EXPECT_EQ(stats.guest.mismatches, 0u);
    EXPECT_EQ(stats.devices.needed_resets, 0u);
    EXPECT_GE(stats.devices.requests, stats.devices.checked);
    EXPECT_EQ(stats.devices.queues, 0u) << "a worker still holds a ring";
    EXPECT_EQ(stats.pfn_caches.count, 0u);
    const EventPagesStats& events = stats.event_pages;
    EXPECT_EQ(events.open, 0u);
    EXPECT_EQ(events.taken, events.sent_fast.Total() + events.sent_slow.Total());
    EXPECT_EQ(events.handed_over.Total(), events.sent_slow.Total());
  }

  RunOptions options_;
  Scratch scratch_;
  std::string text_;  // of the guest's serial line
};

TEST_P(DevicesBootTest, NoByteIsWrongUnderMixedChurn) {
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const bool moved = WaitUntil(
      [&] {
        const DevicesStats devices = machine_->GetStats().devices;
        return devices.checked > 100 && devices.refreshes > 20 && devices.kicks > 10 &&
               devices.interrupts > 10 && devices.to_guest_bytes > 0 &&
               devices.from_guest_bytes > 0 && devices.errors > 0 && devices.direct > 10 &&
               devices.bounced > 10;
      },
      3 * kDeadline);
  const DevicesStats devices = machine_->GetStats().devices;
  EXPECT_TRUE(moved) << devices.checked << " checked, " << devices.refreshes << " refreshes, "
                     << devices.kicks << " kicks, " << devices.interrupts << " interrupts, "
                     << devices.errors << " errors, " << devices.direct << " direct, "
                     << devices.bounced << " bounced\n"
                     << text_;
  uint64_t console_queues = 0;
  for (const DeviceInfo& device : machine_->devices().virtio) {
    EXPECT_EQ(device.status, 15u) << device.name;
    if (device.name != "console") continue;
    for (const DeviceQueueInfo& queue : device.queues) {
      ++console_queues;
      EXPECT_GT(queue.requests, 0u) << queue.name;
      EXPECT_EQ(queue.errors, 0u) << queue.name;
    }
  }
  EXPECT_EQ(console_queues, 2u);
  FinishWell();
}

// The guest's verdict is that no event was lost or came twice, and that no time went back.
TEST_P(DevicesBootTest, EachEventComesOnceInAStormOfChurn) {
  ASSERT_NO_FATAL_FAILURE(SetChurn("storm", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  // Of each page: the VM's, and those of all vCPUs.
  const auto each = [&](const ByEventPage& by_page, uint64_t least) {
    return by_page.pages == options_.vcpus + 1 &&
           std::all_of(by_page.values.begin(), by_page.values.begin() + by_page.pages,
                       [&](uint64_t value) { return value >= least; });
  };
  const auto events = [&] { return machine_->GetStats().event_pages; };
  EXPECT_TRUE(WaitUntil(
      [&] {
        return each(events().sent_fast, 1000) && each(events().sent_slow, 50) &&
               each(events().refreshes, 10) && events().taken > 1000 && events().time_updates > 100;
      },
      3 * kDeadline))
      << events().sent_fast.Total() << " sent at once, " << events().sent_slow.Total()
      << " handed over, " << events().taken << " taken\n"
      << text_;
  EXPECT_EQ(events().open, options_.vcpus + 1);
  FinishWell();
  EXPECT_GT(machine_->GetStats().event_pages.taken, 1000u);
}

TEST_P(DevicesBootTest, AGuestThatGivesNoEventPageHasNone) {
  options_.guest = "hello";
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(machine_->Finish().ok());
  EXPECT_TRUE(machine_->devices().event_pages.empty());
}

// Up and down, in whole chunks of the guest's pages. A page that comes back and is not zeroes is part
// of the guest's verdict.
TEST_P(DevicesBootTest, TheBalloonFollowsItsTargetUnderMixedChurn) {
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const auto balloon = [&] { return machine_->GetStats().balloon; };
  EXPECT_TRUE(WaitUntil([&] { return balloon().reported > 0; }, 3 * kDeadline));
  constexpr uint64_t kChunk = uint64_t{64} << 12;
  for (const uint64_t chunks : {3, 1, 4, 0}) {
    ASSERT_TRUE(machine_->SetBalloon(chunks * kChunk).ok());
    EXPECT_TRUE(WaitUntil([&] { return balloon().actual_bytes == chunks * kChunk; }, 3 * kDeadline))
        << balloon().actual_bytes << " of " << chunks * kChunk << "\n"
        << text_;
  }
  ASSERT_TRUE(machine_->SetBalloon(2 * kChunk).ok());
  EXPECT_FALSE(machine_->SetBalloon(machine_->memory().bytes() + 4096).ok());
  FinishWell();
  EXPECT_EQ(balloon().actual_bytes, 0u) << "the guest takes all pages back at its end";
  EXPECT_EQ(balloon().inflated, balloon().deflated);
  EXPECT_EQ(balloon().kept, 0u);
}

// The guest of ./dev soak --devices: with several fault handlers here, since there may be one CPU.
TEST_P(DevicesBootTest, TheGuestDevicesMovesAMebibyteThroughItsDisk) {
  options_.guest = "devices";
  options_.fault_handlers = 4;
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return BytesToDisk() > uint64_t{1} << 20; }, 3 * kDeadline))
      << BytesToDisk() << " bytes\n"
      << text_;
  FinishWell();
}

// The guest's verdict is that each block which it has plugged was all zeroes, and kept what was written
// there until it was unplugged. The blocks come and go by the target, and by the guest's own cycles.
TEST_P(DevicesBootTest, MemoryIsPluggedAndUnpluggedUnderMixedChurn) {
  options_.hotplug_bytes = 8 * kHotplugBlockBytes;
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const auto hotplug = [&] { return machine_->GetStats().hotplug; };
  EXPECT_EQ(hotplug().requested_bytes, 4 * kHotplugBlockBytes) << "the machine asks for a half";
  for (const uint64_t blocks : {4, 7, 0, 8, 3}) {
    ASSERT_TRUE(machine_->SetHotplug(blocks * kHotplugBlockBytes).ok());
    EXPECT_TRUE(WaitUntil([&] { return hotplug().plugged_bytes == blocks * kHotplugBlockBytes; },
                          3 * kDeadline))
        << hotplug().plugged_bytes << " of " << blocks * kHotplugBlockBytes << "\n"
        << text_;
  }
  const uint64_t unplugged = hotplug().unplugged;
  EXPECT_TRUE(WaitUntil([&] { return hotplug().unplugged >= unplugged + 10; }, 3 * kDeadline))
      << "the guest does not unplug by itself\n"
      << text_;
  EXPECT_TRUE(WaitUntil([&] { return hotplug().refused > 0; }, 3 * kDeadline));
  FinishWell();
  EXPECT_EQ(hotplug().busy, 0u);
  EXPECT_EQ(hotplug().kept, 0u);
  EXPECT_EQ(hotplug().plugged - hotplug().unplugged, hotplug().plugged_bytes / kHotplugBlockBytes);
  EXPECT_EQ(machine_->GetStats().audit.unexplained, 0u);
}

// A negative control of the guest's check: the test changes a byte of a block. Which page the guest
// writes next is not known, so all of them are changed.
TEST_P(DevicesBootTest, AWrongByteInAPluggedBlockIsInTheVerdict) {
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const GuestMemory& memory = machine_->memory();
  ASSERT_NE(memory.hotplug(), nullptr);
  const Gpa region = memory.hotplug()->begin();
  EXPECT_TRUE(WaitUntil([&] { return machine_->GetStats().hotplug.plugged_bytes != 0; }));
  const bool seen = WaitUntil(
      [&] {
        for (uint64_t page = 0; page < memory.hotplug()->bytes() / kPageSize; ++page) {
          auto* const words =
              static_cast<uint64_t*>(PointerOf(*memory.HvaOf(region + page * kPageSize)));
          for (uint64_t i = 0; i < kPageSize / 8; ++i) std::atomic_ref(words[i]).store(0xbad);
        }
        return machine_->GetStats().guest.mismatches != 0;
      },
      3 * kDeadline);
  EXPECT_TRUE(seen);
  const std::string message(machine_->Finish().message());
  EXPECT_EQ(machine_->GetStats().guest.verdict, GuestVerdict::kBad);
  EXPECT_THAT(message, ::testing::HasSubstr("found 0xbad"));
  const uint64_t gfn = Report().first[0].gfn;
  EXPECT_TRUE(gfn >= GfnOf(region).value && gfn < GfnOf({memory.bytes()}).value) << gfn;
}

// Queues whose driver has accepted IN_ORDER: that of the memory device at even seeds, those of the disk
// at odd ones.
TEST_P(DevicesBootTest, ADriverTakesAnswersInOrder) {
  options_.guest = "devices";
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return Report().answers_in_runs > 50; }, 3 * kDeadline))
      << Report().answers_in_runs << " of " << machine_->GetStats().devices.checked << "\n"
      << text_;
  FinishWell();
}

TEST_P(DevicesBootTest, AnotherDriverTakesThemByTheirElements) {
  options_.guest = "devices";
  options_.seed = 12;
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return machine_->GetStats().devices.checked > 200; }, 3 * kDeadline));
  FinishWell();
  EXPECT_EQ(Report().answers_in_runs, 0u);
}

// Asked again and again, the guest reports each time.
TEST_P(DevicesBootTest, TheGuestReportsAboutItsMemoryWheneverItIsAsked) {
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil(
      [&] {
        machine_->AskForGuestMemory();
        return machine_->GetStats().guest_memory.reports > 5;
      },
      3 * kDeadline))
      << text_;
  EXPECT_EQ(machine_->GetStats().guest_memory.total_bytes, options_.memory_bytes);
  FinishWell();
}

// Without churn only the balloon discards. Its pages go from the page tables of this process, and stay
// away: the guest does not touch what it has given.
TEST_P(DevicesBootTest, TheHostHasThePagesThatTheGuestHasGiven) {
  options_.fault_around = 1;  // it would bring in neighbours of pages that the guest uses
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
  ASSERT_TRUE(pagemap.ok()) << pagemap.status();
  constexpr uint64_t kGiven = uint64_t{3} * 64;  // pages
  ASSERT_TRUE(machine_->SetBalloon(kGiven * kPageSize).ok());
  ASSERT_TRUE(Becomes([](const Stats& stats) {
    return stats.balloon.actual_bytes == kGiven * kPageSize && stats.balloon.idle_us == 0;
  })) << text_;
  EXPECT_GE(machine_->GetStats().balloon.inflated, kGiven);
  std::set<uint64_t> discarded;
  for (const NumberedEvent& numbered : machine_->events().Since(0, EventLog::kCapacity)) {
    const HostEvent& event = numbered.event;
    if (event.source != EventSource::kHook) continue;
    EXPECT_TRUE(event.change == HostChange::kDiscard || event.change == HostChange::kPunch);
    for (Hva page = event.range.begin; page < event.range.end; page += kPageSize) {
      discarded.insert(page.value);
    }
  }
  // A chunk that was reported free is used again, and may be the one that was given later.
  const auto away =
      static_cast<uint64_t>(std::count_if(discarded.begin(), discarded.end(), [&](uint64_t page) {
        return !pagemap->Read(Hva{page}).present;
      }));
  EXPECT_GE(away, kGiven) << discarded.size() << " pages were discarded";
  FinishWell();
}

// The file keeps what the guest has written, and its digest is the guest's.
TEST_P(DevicesBootTest, ADiskOnAFileHasWhatTheGuestHasWritten) {
  options_.disks = {{.path = MakeDisk(uint64_t{1} << 20)}};
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return BytesToDisk() > 65536; }));
  FinishWell();
  machine_.reset();
  const UniqueFd fd(open(options_.disks.front().path.c_str(), O_RDONLY | O_CLOEXEC));
  std::vector<char> content(1 << 20);
  ASSERT_EQ(pread(fd.get(), content.data(), content.size(), 0), 1 << 20);
  EXPECT_NE(content, std::vector<char>(1 << 20)) << "nothing was written";
}

TEST_P(DevicesBootTest, ADiskThatIsReadOnlyStaysAsItIs) {
  options_.disks = {{.path = MakeDisk(uint64_t{1} << 20), .read_only = true}};
  {
    const UniqueFd fd(open(options_.disks.front().path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(pwrite(fd.get(), "some content", 12, 5000), 12);
  }
  ASSERT_NO_FATAL_FAILURE(SetChurn("mixed", &options_));
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return machine_->GetStats().devices.checked > 50; }));
  FinishWell();
  EXPECT_EQ(BytesToDisk(), 0u);
}

// A negative control of the comparison at the end: the file changes after the guest has read it
// last, and only the machine can see that.
TEST_P(DevicesBootTest, AFileThatDiffersFromWhatTheGuestReadFailsTheRun) {
  options_.disks = {{.path = MakeDisk(uint64_t{1} << 20)}};
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  EXPECT_TRUE(WaitUntil([&] { return machine_->GetStats().devices.checked > 20; }));
  const GuestReports reports(machine_->memory().slots().front().hva, options_.vcpus);
  reports.RequestStop();
  ASSERT_TRUE(WaitUntil([&] { return reports.Total().done == options_.vcpus; }, 3 * kDeadline));
  const UniqueFd fd(open(options_.disks.front().path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(pwrite(fd.get(), "!", 1, 100 * 512 + 7), 1);
  const absl::Status finished = machine_->Finish();
  EXPECT_EQ(finished.message(),
            "sectors 0 to 511 of the disk: the guest has read other content than the file has");
  EXPECT_EQ(machine_->GetStats().guest.verdict, GuestVerdict::kGood);
}

INSTANTIATE_TEST_SUITE_P(Machines, DevicesBootTest,
                         ::testing::Combine(::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(1u, 4u)),
                         [](const auto& machine) {
                           return std::string(BackingName(std::get<0>(machine.param))) + "_" +
                                  std::to_string(std::get<1>(machine.param)) + "_vcpus";
                         });

}  // namespace
}  // namespace underfoot::testing
