// The memory balloon: what the guest gives goes back to the host, and nothing else does.

#include "vmm/devices/virtio/balloon.h"

#include <gtest/gtest.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/devices/device_test.h"

namespace underfoot::testing {
namespace {

using virtio::Balloon;
using virtio::Descriptor;

class BalloonTest : public DeviceTest {
 protected:
  static constexpr uint64_t kFrames = 12;  // the page with the frame numbers
  static constexpr uint64_t kGiven = 20;   // the first page that is given
  static constexpr uint16_t kReporting = 2;

  void SetUp() override {
    DeviceTest::SetUp();
    if (side_ == nullptr) return;
    Negotiate(kAllFeatures | Features());
    for (uint32_t queue = 0; queue < Queues(); ++queue) {
      drivers_.emplace_back(side(), uint16_t{16}, queue * 3);
      Place(queue, drivers_[queue].layout());
    }
    GoOn();
    for (uint64_t page = kGiven - 1; page < kGiven + 9; ++page) side().Store(page, page);
  }
  virtual uint64_t Features() const { return uint64_t{1} << VIRTIO_BALLOON_F_REPORTING; }
  virtual uint32_t Queues() const { return 3; }
  std::unique_ptr<virtio::Backend> MakeBackend() override {
    auto balloon = std::make_unique<Balloon>(*side().memory, [this](HvaRange pages) {
      ++discards_;
      if (at_discard_) at_discard_();
      return side().hooks.Discard(pages).status();
    });
    balloon_ = balloon.get();
    return balloon;
  }

  // True: the device has answered.
  bool Ask(uint32_t queue, const Descriptor& buffer) {
    drivers_[queue].SetChain(0, {buffer});
    drivers_[queue].Offer(0);
    Notify(queue);
    std::optional<virtio::UsedElement> used;
    return WaitUntil([&] { return (used = drivers_[queue].Take()).has_value() || NeedsReset(); }) &&
           used.has_value();
  }
  bool AskFrames(uint32_t queue, const std::vector<uint32_t>& frames) {
    const size_t bytes = frames.size() * sizeof(frames[0]);
    std::memcpy(PointerOf(side().PageAt(kFrames)), frames.data(), bytes);
    return Ask(queue, Readable(kFrames, static_cast<uint32_t>(bytes)));
  }
  uint32_t FrameAt(uint64_t page) { return static_cast<uint32_t>(side().GfnAt(page).value); }
  // The pages of kGiven and the seven that follow it that are not zeroes.
  std::vector<uint64_t> Left() {
    std::vector<uint64_t> pages;
    for (uint64_t page = kGiven - 1; page < kGiven + 9; ++page) {
      if (side().Load(page) != 0) pages.push_back(page - kGiven);
    }
    return pages;
  }
  uint32_t Config(uint64_t offset) { return Register(VIRTIO_MMIO_CONFIG + offset); }

  Balloon* balloon_ = nullptr;
  std::vector<FakeDriver> drivers_;
  std::atomic<int> discards_{0};
  std::function<void()> at_discard_;  // set before the request
};

constexpr uint64_t kNone = ~uint64_t{0};  // page kGiven - 1

TEST_P(BalloonTest, InflatedPagesAreDiscardedAndNoOthers) {
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), uint32_t{VIRTIO_ID_BALLOON});
  EXPECT_TRUE(
      AskFrames(Balloon::kInflate, {FrameAt(kGiven + 6), FrameAt(kGiven + 1), FrameAt(kGiven),
                                    FrameAt(kGiven + 2), FrameAt(kGiven + 6)}));
  EXPECT_EQ(Left(), (std::vector<uint64_t>{kNone, 3, 4, 5, 7, 8}));
  EXPECT_EQ(balloon_->Stats().inflated, 4u);
  EXPECT_EQ(balloon_->Stats().kept, 0u);
  EXPECT_TRUE(AskFrames(Balloon::kDeflate, {FrameAt(kGiven), FrameAt(kGiven + 1)}));
  EXPECT_EQ(balloon_->Stats().deflated, 2u);
  EXPECT_EQ(Left().size(), 6u);
}

// The discard is a bracket: a translation of the page does not outlive it.
TEST_P(BalloonTest, ADiscardOfTheGuestDropsTheTranslation) {
  FaultIn(kGiven);
  ASSERT_TRUE(side().LeafOf(kGiven).has_value());
  EXPECT_TRUE(AskFrames(Balloon::kInflate, {FrameAt(kGiven)}));
  EXPECT_FALSE(side().LeafOf(kGiven).has_value());
}

TEST_P(BalloonTest, ReportedPagesAreDiscardedAsFarAsTheyAreWhole) {
  Descriptor buffer = Writable(kGiven, 3 * kPageSize);
  buffer.gpa += 512;
  EXPECT_TRUE(Ask(kReporting, buffer));
  EXPECT_EQ(Left(), (std::vector<uint64_t>{kNone, 0, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(balloon_->Stats().reported, 2u);
  EXPECT_TRUE(Ask(kReporting, Writable(kGiven + 7, 512)));
  EXPECT_EQ(balloon_->Stats().reported, 2u);
}

TEST_P(BalloonTest, ANewTargetInterruptsTheDriverAndTheDriverSaysWhatItHasGiven) {
  const uint32_t generation = Register(VIRTIO_MMIO_CONFIG_GENERATION);
  EXPECT_EQ(Config(offsetof(virtio_balloon_config, num_pages)), 0u);
  EXPECT_TRUE(absl::IsInvalidArgument(balloon_->SetTarget(10 * kPageSize + 5)));
  ASSERT_TRUE(balloon_->SetTarget(10 * kPageSize).ok());
  EXPECT_EQ(Config(offsetof(virtio_balloon_config, num_pages)), 10u);
  EXPECT_NE(Register(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_CONFIG});
  SetRegister(VIRTIO_MMIO_CONFIG + offsetof(virtio_balloon_config, actual), 7);
  EXPECT_EQ(balloon_->Stats().actual_bytes, 7 * kPageSize);
  SetRegister(VIRTIO_MMIO_CONFIG + offsetof(virtio_balloon_config, num_pages), 3);
  EXPECT_EQ(balloon_->Stats().target_bytes, 10 * kPageSize) << "the driver cannot change it";
  const absl::Status more = balloon_->SetTarget(side().memory->bytes() + 1);
  EXPECT_EQ(more.message(),
            "a balloon of 33554433 bytes: the guest has 33554432 bytes of memory; ask for less");
}

TEST_P(BalloonTest, AFrameThatIsNoMemoryNeedsAReset) {
  const auto end = static_cast<uint32_t>(side().memory->bytes() >> kPageShift);
  EXPECT_FALSE(AskFrames(Balloon::kInflate, {FrameAt(kGiven), end}));
  EXPECT_TRUE(NeedsReset());
  EXPECT_EQ(balloon_->Stats().inflated, 0u);
  EXPECT_EQ(Left().size(), 10u);
}

TEST_P(BalloonTest, ARequestOfAPartOfANumberNeedsAReset) {
  EXPECT_FALSE(Ask(Balloon::kInflate, Readable(kFrames, 6)));
}

TEST_P(BalloonTest, AReportWithoutABufferNeedsAReset) {
  EXPECT_FALSE(Ask(kReporting, Readable(kFrames, 8)));
}

// A chain can describe more memory than can be discarded in the time that the end of a machine waits.
TEST_P(BalloonTest, ARequestWhoseWorkerIsStoppedDiscardsNothingMore) {
  at_discard_ = [this] { device().RequestStop(); };
  const std::array frames = {FrameAt(kGiven), FrameAt(kGiven + 2), FrameAt(kGiven + 4)};
  std::memcpy(PointerOf(side().PageAt(kFrames)), frames.data(), sizeof(frames));
  drivers_[Balloon::kInflate].SetChain(0, {Readable(kFrames, sizeof(frames))});
  drivers_[Balloon::kInflate].Offer(0);
  Notify(Balloon::kInflate);
  ASSERT_TRUE(WaitUntil([&] { return discards_ > 0; }));
  EXPECT_TRUE(device().Stop().empty());
  EXPECT_EQ(discards_, 1);
  EXPECT_EQ(drivers_[Balloon::kInflate].UsedIndex(), 0u) << "half a request was answered";
}

TEST_P(BalloonTest, AReportWhoseDeviceIsResetDiscardsNothingMore) {
  at_discard_ = [this] { SetRegister(VIRTIO_MMIO_STATUS, 0); };
  drivers_[kReporting].SetChain(0, {Writable(kGiven, kPageSize), Writable(kGiven + 2, kPageSize)});
  drivers_[kReporting].Offer(0);
  Notify(kReporting);
  ASSERT_TRUE(WaitUntil([&] { return discards_ > 0 && Register(VIRTIO_MMIO_STATUS) == 0; }));
  EXPECT_EQ(discards_, 1);
  EXPECT_EQ(drivers_[kReporting].UsedIndex(), 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(BalloonTest);

// A driver that has accepted the statistics.
class BalloonStatisticsTest : public BalloonTest {
 protected:
  static constexpr uint16_t kReporting = 3;

  uint64_t Features() const override {
    return BalloonTest::Features() | uint64_t{1} << VIRTIO_BALLOON_F_STATS_VQ;
  }
  uint32_t Queues() const override { return 4; }

  // Gives the buffer with these entries; 10 bytes each, which may lie anywhere.
  void Give(const std::vector<virtio_balloon_stat>& entries) {
    std::memcpy(PointerOf(side().PageAt(kFrames)), entries.data(),
                entries.size() * sizeof(entries[0]));
    GiveBytes(static_cast<uint32_t>(entries.size() * sizeof(entries[0])));
  }
  void GiveBytes(uint32_t bytes) {
    drivers_[Balloon::kStatistics].SetChain(0, {Readable(kFrames, bytes)});
    drivers_[Balloon::kStatistics].Offer(0);
    Notify(Balloon::kStatistics);
  }
  bool IsReturned() { return drivers_[Balloon::kStatistics].Take().has_value(); }
  uint64_t Reports() const { return balloon_->GuestStats().reports; }
};

TEST_P(BalloonStatisticsTest, TheBufferIsReadAndGoesBackWhenTheHostAsks) {
  EXPECT_EQ(balloon_->GuestStats().reports, 0u);
  Give({{VIRTIO_BALLOON_S_MEMFREE, 4096},
        {VIRTIO_BALLOON_S_SWAP_IN, 1},
        {VIRTIO_BALLOON_S_SWAP_OUT, 2},
        {VIRTIO_BALLOON_S_MAJFLT, 3},
        {VIRTIO_BALLOON_S_MINFLT, 4},
        {VIRTIO_BALLOON_S_MEMTOT, uint64_t{1} << 40},
        {VIRTIO_BALLOON_S_AVAIL, 5},
        {VIRTIO_BALLOON_S_CACHES, 6},
        {VIRTIO_BALLOON_S_HTLB_PGALLOC, 7},
        {VIRTIO_BALLOON_S_HTLB_PGFAIL, 8},
        {999, 10}});
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 1; }));
  const GuestMemoryStats stats = balloon_->GuestStats();
  EXPECT_EQ(stats.free_bytes, 4096u);
  EXPECT_EQ(stats.total_bytes, uint64_t{1} << 40);
  EXPECT_EQ((std::array{stats.swap_in_bytes, stats.swap_out_bytes, stats.major_faults,
                        stats.minor_faults, stats.available_bytes, stats.cache_bytes,
                        stats.hugetlb_allocations, stats.hugetlb_failures}),
            (std::array<uint64_t, 8>{1, 2, 3, 4, 5, 6, 7, 8}));
  // A notification without a new buffer is no new report.
  Notify(Balloon::kStatistics);
  balloon_->AskForStatistics();
  ASSERT_TRUE(WaitUntil([&] { return IsReturned(); }));
  EXPECT_EQ(Reports(), 1u);

  Give({{VIRTIO_BALLOON_S_MEMFREE, 8192}});
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 2; }));
  EXPECT_EQ(balloon_->GuestStats().free_bytes, 8192u);
  EXPECT_EQ(balloon_->GuestStats().total_bytes, 0u) << "not reported this time";
  balloon_->AskForStatistics();
  ASSERT_TRUE(WaitUntil([&] { return IsReturned(); }));
}

// The guest has got the buffer back and has not filled it yet: what it gives next is the answer.
TEST_P(BalloonStatisticsTest, AQuestionWhileTheGuestHasTheBufferIsAnsweredByTheNextReport) {
  balloon_->AskForStatistics();
  Give({{VIRTIO_BALLOON_S_MEMFREE, 4096}});
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 1; }));
  balloon_->AskForStatistics();
  ASSERT_TRUE(WaitUntil([&] { return IsReturned(); }));
  EXPECT_FALSE(IsReturned());
}

TEST_P(BalloonStatisticsTest, ABufferThatIsNoListOfStatisticsNeedsAReset) {
  for (const uint32_t bytes : {0u, 9u, 15u}) {
    GiveBytes(bytes);
    EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); })) << bytes;
    EXPECT_EQ(Reports(), 0u);
    Reset();
    drivers_.clear();
    Negotiate(kAllFeatures | Features());
    for (uint32_t queue = 0; queue < Queues(); ++queue) {
      drivers_.emplace_back(side(), uint16_t{16}, queue * 3);
      Place(queue, drivers_[queue].layout());
    }
    GoOn();
  }
  // Of a long list the beginning is read.
  std::vector<virtio_balloon_stat> many(100, {VIRTIO_BALLOON_S_MEMFREE, 1});
  many[99].val = 2;
  Give(many);
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 1; }));
  EXPECT_EQ(balloon_->GuestStats().free_bytes, 1u);
}

// After a reset there is no buffer that could go back, and a new one is read.
TEST_P(BalloonStatisticsTest, ADriverThatBeginsAnewIsHeardAnew) {
  Give({{VIRTIO_BALLOON_S_MEMFREE, 1}});
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 1; }));
  Reset();
  balloon_->AskForStatistics();
  Negotiate(kAllFeatures | Features());
  FakeDriver again(side(), 16, 3 * Balloon::kStatistics);
  Place(Balloon::kStatistics, again.layout());
  GoOn();
  const virtio_balloon_stat entry{VIRTIO_BALLOON_S_MEMFREE, 2};
  std::memcpy(PointerOf(side().PageAt(kFrames)), &entry, sizeof(entry));
  again.SetChain(0, {Readable(kFrames, sizeof(entry))});
  again.Offer(0);
  Notify(Balloon::kStatistics);
  ASSERT_TRUE(WaitUntil([&] { return Reports() == 2; }));
  EXPECT_EQ(balloon_->GuestStats().free_bytes, 2u);
  EXPECT_EQ(again.UsedIndex(), 0u);
}

TEST_P(BalloonStatisticsTest, TheReportsOfFreePagesAreOnTheNextQueue) {
  EXPECT_TRUE(Ask(kReporting, Writable(kGiven, kPageSize)));
  EXPECT_EQ(balloon_->Stats().reported, 1u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(BalloonStatisticsTest);

}  // namespace
}  // namespace underfoot::testing
