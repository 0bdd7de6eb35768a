// Hot-plug of memory: what the guest may plug, what becomes of a block, and that no device uses one that
// is not plugged.

#include "vmm/devices/virtio/mem.h"

#include <gtest/gtest.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_mem.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <new>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "tests/devices/block_fixture.h"
#include "tests/devices/device_test.h"
#include "vmm/ram/hotplug_blocks.h"

namespace underfoot::testing {
namespace {

using virtio::Mem;
using virtio::QueueOutcome;

class MemTest : public DeviceTest {
 protected:
  static constexpr uint64_t kBlocks = 16;
  static constexpr uint64_t kFeature = uint64_t{1} << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
  static constexpr uint64_t kRequest = kData;
  static constexpr uint64_t kResponse = kData + 1;

  void SetUp() override {
    DeviceTest::SetUp();
    if (side_ == nullptr) return;
    Run(kAllFeatures | kFeature);
    ASSERT_TRUE(mem_->SetRequested(kBlocks * kHotplugBlockBytes).ok());
  }
  uint64_t HotplugBytes() const override { return kBlocks * kHotplugBlockBytes; }
  std::unique_ptr<virtio::Backend> MakeBackend() override {
    auto mem = std::make_unique<Mem>(
        *side().memory, mmu().direct_requests(),
        [this](HvaRange pages) {
          if (no_memory_ || (shortages_at_ != 0 && --shortages_at_ == 0)) throw std::bad_alloc();
          ++discards_;
          return side().hooks.Discard(pages).status();
        },
        patience());
    mem_ = mem.get();
    return mem;
  }
  virtual absl::Duration patience() const { return absl::ZeroDuration(); }

  HotplugBlocks& blocks() { return *side().memory->hotplug(); }
  Gpa BlockAt(uint64_t block) { return blocks().begin() + block * kHotplugBlockBytes; }
  Hva HvaAt(uint64_t block) { return *side().memory->HvaOf(BlockAt(block)); }
  Gfn GfnOfBlock(uint64_t block) { return GfnOf(BlockAt(block)); }

  // The type of the response and, of a state, the state; nullopt: the device needs a reset.
  std::optional<std::pair<uint16_t, uint16_t>> Ask(uint16_t type, Gpa gpa = {},
                                                   uint16_t count = 0) {
    virtio_mem_req request{};
    request.type = type;
    request.u.plug.addr = gpa.value;
    request.u.plug.nb_blocks = count;
    std::memcpy(PointerOf(side().PageAt(kRequest)), &request, sizeof(request));
    std::memset(PointerOf(side().PageAt(kResponse)), 0xee, sizeof(virtio_mem_resp));
    driver().SetChain(
        0, {Readable(kRequest, sizeof(request)), Writable(kResponse, sizeof(virtio_mem_resp))});
    driver().Offer(0);
    Notify();
    std::optional<virtio::UsedElement> used;
    if (!WaitUntil([&] { return (used = driver().Take()).has_value() || NeedsReset(); }) ||
        !used.has_value()) {
      return std::nullopt;
    }
    EXPECT_EQ(used->written, sizeof(virtio_mem_resp));
    virtio_mem_resp response;
    std::memcpy(&response, PointerOf(side().PageAt(kResponse)), sizeof(response));
    return std::pair(response.type, response.u.state.state);
  }
  uint16_t Plug(uint64_t block, uint16_t count = 1) {
    return Ask(VIRTIO_MEM_REQ_PLUG, BlockAt(block), count)->first;
  }
  uint16_t Unplug(uint64_t block, uint16_t count = 1) {
    return Ask(VIRTIO_MEM_REQ_UNPLUG, BlockAt(block), count)->first;
  }
  std::pair<uint16_t, uint16_t> State(uint64_t block, uint16_t count) {
    return *Ask(VIRTIO_MEM_REQ_STATE, BlockAt(block), count);
  }
  uint64_t Config(uint64_t offset) {
    return Register(VIRTIO_MMIO_CONFIG + offset) |
           uint64_t{Register(VIRTIO_MMIO_CONFIG + offset + 4)} << 32;
  }
  // An access of the machine itself.
  absl::Status Write(Gpa gpa, uint8_t value) {
    return side().access.Write(*reader_, gpa, std::as_bytes(std::span(&value, 1)));
  }
  bool HasLeaf(uint64_t block) {
    const Stage2::Path path = mmu().stage2().WalkPath(GfnOfBlock(block));
    return path.entries[path.last_level].is_leaf();
  }
  uint8_t ByteAt(Gpa gpa) { return *static_cast<uint8_t*>(PointerOf(*side().memory->HvaOf(gpa))); }

  Mem* mem_ = nullptr;
  std::atomic<int> discards_{0};
  std::atomic<bool> no_memory_{false};
  std::atomic<int> shortages_at_{
      0};  // the discard that finds no memory: 1 is the next one; 0: none
};

TEST_P(MemTest, TheConfigurationDescribesTheRegionAndFollowsTheTarget) {
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), uint32_t{VIRTIO_ID_MEM});
  EXPECT_EQ(Config(offsetof(virtio_mem_config, block_size)), kHotplugBlockBytes);
  EXPECT_EQ(Config(offsetof(virtio_mem_config, addr)), blocks().begin().value);
  EXPECT_EQ(Config(offsetof(virtio_mem_config, region_size)), HotplugBytes());
  EXPECT_EQ(Config(offsetof(virtio_mem_config, usable_region_size)), HotplugBytes());
  EXPECT_EQ(Plug(0, 3), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(Config(offsetof(virtio_mem_config, plugged_size)), 3 * kHotplugBlockBytes);
  const uint32_t generation = Register(VIRTIO_MMIO_CONFIG_GENERATION);
  SetRegister(VIRTIO_MMIO_INTERRUPT_ACK, ~0u);
  ASSERT_TRUE(mem_->SetRequested(2 * kHotplugBlockBytes).ok());
  EXPECT_EQ(Config(offsetof(virtio_mem_config, requested_size)), 2 * kHotplugBlockBytes);
  EXPECT_NE(Register(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_EQ(Register(VIRTIO_MMIO_INTERRUPT_STATUS), uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_EQ(mem_->SetRequested(kHotplugBlockBytes + 4096).message(),
            "2101248 bytes of plugged memory are not a whole number of blocks of 2097152 bytes");
  EXPECT_EQ(mem_->SetRequested(HotplugBytes() + kHotplugBlockBytes).message(),
            "35651584 bytes of plugged memory: this machine has room for 33554432 bytes; ask for "
            "less, or start it with more --hotplug-memory");
}

TEST_P(MemTest, ADriverThatMayTouchUnpluggedMemoryIsRefused) {
  Reset();
  SetRegister(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  SetFeatures(virtio::kVersion1);
  SetRegister(VIRTIO_MMIO_STATUS, kNegotiated);
  EXPECT_EQ(Register(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0u);
}

TEST_P(MemTest, WhatTheGuestMayPlugIsWhatTheHostAsksFor) {
  ASSERT_TRUE(mem_->SetRequested(4 * kHotplugBlockBytes).ok());
  EXPECT_EQ(Plug(2, 2), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(Plug(8, 3), VIRTIO_MEM_RESP_NACK);
  EXPECT_EQ(Plug(8, 2), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(State(2, 2), (std::pair<uint16_t, uint16_t>(VIRTIO_MEM_RESP_ACK, 0)));
  EXPECT_EQ(State(4, 4).second, VIRTIO_MEM_STATE_UNPLUGGED);
  EXPECT_EQ(State(0, kBlocks).second, VIRTIO_MEM_STATE_MIXED);
  EXPECT_EQ(mem_->Stats().plugged_bytes, 4 * kHotplugBlockBytes);
  EXPECT_EQ(mem_->Stats().idle_us, 0u);
  EXPECT_EQ(mem_->Stats().refused, 1u);
}

TEST_P(MemTest, RequestsAgainstTheRulesChangeNothing) {
  ASSERT_EQ(Plug(4, 2), VIRTIO_MEM_RESP_ACK);
  const Gpa first = BlockAt(0);
  EXPECT_EQ(Plug(5, 2), VIRTIO_MEM_RESP_ERROR) << "one is plugged";
  EXPECT_EQ(Unplug(5, 2), VIRTIO_MEM_RESP_ERROR) << "one is not plugged";
  for (const uint16_t type : {uint16_t{VIRTIO_MEM_REQ_PLUG}, uint16_t{VIRTIO_MEM_REQ_UNPLUG},
                              uint16_t{VIRTIO_MEM_REQ_STATE}}) {
    EXPECT_EQ(Ask(type, first, 0)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, first + 4096, 1)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, first - kHotplugBlockBytes, 1)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, BlockAt(kBlocks), 1)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, BlockAt(kBlocks - 1), 2)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, first, 0xffff)->first, VIRTIO_MEM_RESP_ERROR);
    EXPECT_EQ(Ask(type, {~uint64_t{0} << 21}, 0xffff)->first, VIRTIO_MEM_RESP_ERROR);
  }
  EXPECT_EQ(Ask(77, first, 1)->first, VIRTIO_MEM_RESP_ERROR);
  EXPECT_EQ(mem_->Stats().plugged_bytes, 2 * kHotplugBlockBytes);
  EXPECT_EQ(mem_->Stats().plugged, 2u);
  EXPECT_EQ(mem_->Stats().unplugged, 0u);
}

TEST_P(MemTest, ARequestWithoutRoomForItsAnswerNeedsAReset) {
  driver().SetChain(0, {Readable(kRequest, sizeof(virtio_mem_req)), Writable(kResponse, 8)});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
}

TEST_P(MemTest, AnUnpluggedBlockIsDiscardedBeforeTheAnswerAndIsNoRam) {
  ASSERT_EQ(Plug(3, 2), VIRTIO_MEM_RESP_ACK);
  ASSERT_TRUE(Write(BlockAt(3), 7).ok());
  ASSERT_TRUE(Write(BlockAt(4), 9).ok());
  EXPECT_TRUE(HasLeaf(3));
  EXPECT_EQ(Unplug(3), VIRTIO_MEM_RESP_ACK);
  EXPECT_FALSE(HasLeaf(3));
  EXPECT_FALSE(side().pagemap.Read(HvaAt(3)).present);
  EXPECT_EQ(Write(BlockAt(3) + 12, 8).message(),
            absl::StrFormat("access of 1 bytes at gpa 0x%x: its block of hot-pluggable memory is "
                            "not plugged",
                            BlockAt(3).value + 12));
  EXPECT_FALSE(side().pagemap.Read(HvaAt(3)).present) << "the access has brought the page in";
  EXPECT_EQ(ByteAt(BlockAt(4)), 9);
  // An access over the edge of a block that is plugged.
  std::array<std::byte, 16> bytes{};
  EXPECT_TRUE(absl::IsOutOfRange(side().access.Read(*reader_, BlockAt(4) - 8, bytes)));
  EXPECT_TRUE(side().access.Read(*reader_, BlockAt(4), bytes).ok());
  EXPECT_EQ(mem_->Stats().unplugged, 1u);
  EXPECT_EQ(mem_->Stats().kept, 0u);
}

TEST_P(MemTest, APluggedBlockReadsAsZeroesWhateverTheGuestHasWrittenThere) {
  *static_cast<uint8_t*>(PointerOf(HvaAt(5))) = 77;
  EXPECT_EQ(Plug(5), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(ByteAt(BlockAt(5)), 0);
}

// The system call of another device may still write there.
TEST_P(MemTest, ABlockThatARequestIsAnnouncedOverIsBusyUntilItIsWithdrawn) {
  ASSERT_EQ(Plug(2, 3), VIRTIO_MEM_RESP_ACK);
  ASSERT_TRUE(Write(BlockAt(2), 5).ok());
  DirectRequest request(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
  ASSERT_TRUE(request.TryAnnounce({GfnOfBlock(3), GfnOfBlock(3) + 4}).has_value());
  const int discards = discards_;
  EXPECT_EQ(Unplug(2, 2), VIRTIO_MEM_RESP_BUSY);
  EXPECT_EQ(Ask(VIRTIO_MEM_REQ_UNPLUG_ALL)->first, VIRTIO_MEM_RESP_BUSY);
  EXPECT_EQ(discards_, discards);
  EXPECT_EQ(State(2, 3).second, VIRTIO_MEM_STATE_PLUGGED);
  EXPECT_EQ(ByteAt(BlockAt(2)), 5);
  EXPECT_EQ(Unplug(4), VIRTIO_MEM_RESP_ACK) << "another block";
  EXPECT_TRUE(request.Withdraw());
  EXPECT_EQ(Unplug(2, 2), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(mem_->Stats().busy, 2u);
}

// The whole path: the worker of a disk is in the system call that reads its file into the block.
TEST_P(MemTest, ABlockThatADiskReadsIntoIsBusyUntilTheReadIsOver) {
  constexpr uint64_t kRings = 20;
  constexpr uint64_t kHeader = 23;
  constexpr uint64_t kStatus = 24;
  constexpr uint32_t kBytes = virtio::Request::kLeastDirectBytes;
  ASSERT_EQ(Plug(2), VIRTIO_MEM_RESP_ACK);
  absl::Notification in_call;
  absl::Notification file_answers;
  auto fake = std::make_unique<FakeDisk>();
  std::fill(fake->bytes_.begin(), fake->bytes_.end(), std::byte{7});
  fake->before_bytes_ = [&] {
    in_call.Notify();
    file_answers.WaitForNotification();
  };
  auto disk = std::make_unique<virtio::MmioDevice>(
      parts(), std::make_unique<virtio::Block>(std::move(fake), 1, "disk"));
  std::optional<FakeDriver> disk_driver(std::in_place, side(), 16, kRings);
  const auto turn_to_the_other_device = [&] {
    device_.swap(disk);
    driver_.swap(disk_driver);
  };
  turn_to_the_other_device();
  ASSERT_TRUE(device().Start().ok());
  Run();
  virtio_blk_outhdr header{};
  header.type = VIRTIO_BLK_T_IN;
  std::memcpy(PointerOf(side().PageAt(kHeader)), &header, sizeof(header));
  virtio::Descriptor payload = Writable(0, kBytes);
  payload.gpa = BlockAt(2).value;
  driver().SetChain(0, {Readable(kHeader, sizeof(header)), payload, Writable(kStatus, 1)});
  driver().Offer(0);
  Notify();
  const bool called = in_call.WaitForNotificationWithTimeout(absl::FromChrono(kDeadline));
  turn_to_the_other_device();
  EXPECT_TRUE(called);
  EXPECT_EQ(Unplug(2), VIRTIO_MEM_RESP_BUSY);
  EXPECT_EQ(mem_->Stats().busy, 1u);
  EXPECT_TRUE(blocks().is_plugged(2));
  file_answers.Notify();
  EXPECT_TRUE(WaitUntil([&] { return disk_driver->Take().has_value(); }));
  EXPECT_EQ(ByteAt(BlockAt(2)), 7);
  EXPECT_EQ(Unplug(2), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(ByteAt(BlockAt(2)), 0);
}

// A driver that waits as long as it takes.
class PatientMemTest : public MemTest {
 protected:
  absl::Duration patience() const override { return absl::InfiniteDuration(); }
  // An unplug of block 2, which the device does not answer yet.
  void BeginUnplug() {
    virtio_mem_req request{};
    request.type = VIRTIO_MEM_REQ_UNPLUG;
    request.u.plug.addr = BlockAt(2).value;
    request.u.plug.nb_blocks = 1;
    std::memcpy(PointerOf(side().PageAt(kRequest)), &request, sizeof(request));
    driver().SetChain(
        0, {Readable(kRequest, sizeof(request)), Writable(kResponse, sizeof(virtio_mem_resp))});
    driver().Offer(0);
    Notify();
    ASSERT_TRUE(WaitUntil([&] { return mem_->Stats().waits != 0; }));
  }
};

TEST_P(PatientMemTest, AnUnplugWaitsForTheRequestsOverItsBlocksAndLeavesThemPluggedMeanwhile) {
  ASSERT_EQ(Plug(2), VIRTIO_MEM_RESP_ACK);
  DirectRequest request(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
  ASSERT_TRUE(request.TryAnnounce({GfnOfBlock(2), GfnOfBlock(2) + 4}).has_value());
  ASSERT_NO_FATAL_FAILURE(BeginUnplug());
  EXPECT_TRUE(blocks().is_plugged(2));
  EXPECT_TRUE(Write(BlockAt(2) + 12345, 5).ok());
  EXPECT_TRUE(request.Withdraw());
  std::optional<virtio::UsedElement> used;
  ASSERT_TRUE(WaitUntil([&] { return (used = driver().Take()).has_value(); }));
  virtio_mem_resp response;
  std::memcpy(&response, PointerOf(side().PageAt(kResponse)), sizeof(response));
  EXPECT_EQ(response.type, VIRTIO_MEM_RESP_ACK);
  EXPECT_FALSE(blocks().is_plugged(2));
  EXPECT_EQ(mem_->Stats().busy, 0u);
}

TEST_P(PatientMemTest, AResetEndsTheWaitOfAnUnplug) {
  ASSERT_EQ(Plug(2), VIRTIO_MEM_RESP_ACK);
  DirectRequest request(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
  ASSERT_TRUE(request.TryAnnounce({GfnOfBlock(2), GfnOfBlock(2) + 4}).has_value());
  ASSERT_NO_FATAL_FAILURE(BeginUnplug());
  Reset();
  EXPECT_TRUE(blocks().is_plugged(2));
  EXPECT_TRUE(request.Withdraw());
  EXPECT_EQ(mem_->Stats().busy, 0u) << "nobody was told";
}

UNDERFOOT_FOR_BOTH_BACKINGS(PatientMemTest);

// 9 blocks are two discards. The second one finds no memory, and the request is served again.
TEST_P(MemTest, AnUnplugThatFindsNoMemoryInTheMiddleGoesOn) {
  for (const bool all : {false, true}) {
    ASSERT_EQ(Plug(2, 9), VIRTIO_MEM_RESP_ACK);
    for (uint64_t block = 2; block < 11; ++block) ASSERT_TRUE(Write(BlockAt(block), 5).ok());
    const uint64_t unplugged = mem_->Stats().unplugged;
    const uint64_t kept = mem_->Stats().kept;
    shortages_at_ = 2;
    EXPECT_EQ(all ? Ask(VIRTIO_MEM_REQ_UNPLUG_ALL)->first : Unplug(2, 9), VIRTIO_MEM_RESP_ACK);
    EXPECT_EQ(shortages_at_, 0);
    for (uint64_t block = 2; block < 11; ++block) {
      EXPECT_FALSE(blocks().is_plugged(block));
      EXPECT_FALSE(side().pagemap.Read(HvaAt(block)).present) << block;
    }
    EXPECT_EQ(mem_->Stats().unplugged, unplugged + 9);
    EXPECT_EQ(mem_->Stats().kept, kept);
  }
}

TEST_P(MemTest, AnUnplugThatNeverFindsMemoryIsForgottenAtTheReset) {
  ASSERT_EQ(Plug(2, 9), VIRTIO_MEM_RESP_ACK);
  no_memory_ = true;
  EXPECT_EQ(Ask(VIRTIO_MEM_REQ_UNPLUG, BlockAt(2), 9), std::nullopt);
  no_memory_ = false;
  Reset();
  driver_.emplace(side(), 16, 6);  // on pages that are zeroes
  Run(kAllFeatures | kFeature);
  EXPECT_EQ(mem_->Stats().plugged_bytes, 0u) << "no device may use the blocks";
  ASSERT_EQ(Plug(1, 2), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(Unplug(1), VIRTIO_MEM_RESP_ACK);
  EXPECT_FALSE(blocks().is_plugged(1));
  EXPECT_TRUE(blocks().is_plugged(2));
}

TEST_P(MemTest, APlugThatFindsNoMemoryIsMadeAgain) {
  shortages_at_ = 1;
  EXPECT_EQ(Plug(3), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(shortages_at_, 0);
  EXPECT_EQ(mem_->Stats().plugged, 1u);
}

TEST_P(MemTest, UnplugAllUnplugsEveryBlock) {
  ASSERT_EQ(Plug(1, 2), VIRTIO_MEM_RESP_ACK);
  ASSERT_EQ(Plug(7, 9), VIRTIO_MEM_RESP_ACK);
  ASSERT_TRUE(Write(BlockAt(15), 1).ok());
  EXPECT_EQ(Ask(VIRTIO_MEM_REQ_UNPLUG_ALL)->first, VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(State(0, kBlocks).second, VIRTIO_MEM_STATE_UNPLUGGED);
  EXPECT_FALSE(side().pagemap.Read(HvaAt(15)).present);
  EXPECT_EQ(Ask(VIRTIO_MEM_REQ_UNPLUG_ALL)->first, VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(mem_->Stats().unplugged, 11u);
}

TEST_P(MemTest, AResetLeavesTheBlocksAsTheyAre) {
  ASSERT_EQ(Plug(6), VIRTIO_MEM_RESP_ACK);
  ASSERT_TRUE(Write(BlockAt(6), 6).ok());
  Reset();
  EXPECT_TRUE(blocks().is_plugged(6));
  EXPECT_EQ(ByteAt(BlockAt(6)), 6);
}

// A request of another device was taken while the block was plugged.
TEST_P(MemTest, ASystemCallIsNotMadeOnABlockThatIsNotPlugged) {
  ASSERT_EQ(Plug(0), VIRTIO_MEM_RESP_ACK);
  DirectRequest direct(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
  virtio::QueueCounters counters;
  virtio::PageBuffer scratch;
  const std::atomic<bool> let_go{false};
  virtio::Chain chain;
  constexpr uint64_t kBytes = virtio::Request::kLeastDirectBytes;
  chain.writable = {{BlockAt(0), kBytes}};
  chain.writable_bytes = kBytes;
  virtio::Request request({.mmu = mmu(),
                           .access = side().access,
                           .reader = *reader_,
                           .direct = direct,
                           .counters = counters,
                           .scratch = scratch,
                           .let_go = let_go},
                          chain);
  int calls = 0;
  const auto read = [&](std::span<const iovec>) {
    ++calls;
    return static_cast<ssize_t>(kBytes);
  };
  EXPECT_TRUE(request.TryWriteDirectly(0, kBytes, read));
  blocks().Set(0, 1, false);
  EXPECT_FALSE(request.TryWriteDirectly(0, kBytes, read));
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(mmu().direct_requests().AnnouncedOver(PageRangeOf(HvaAt(0))));
  const std::array<std::byte, 1> byte{};
  EXPECT_FALSE(request.Write(0, byte));
}

// The block was unplugged, and the bracket that will discard it has not begun: its leaves are there.
TEST_P(MemTest, ACopyLooksAtTheBlockInItsSection) {
  ASSERT_EQ(Plug(0, 2), VIRTIO_MEM_RESP_ACK);
  std::vector<std::byte> bytes(2 * kPageSize, std::byte{1});
  const Gpa edge = BlockAt(1) - kPageSize;
  ASSERT_TRUE(side().access.Write(*reader_, edge, bytes).ok());
  std::fill(bytes.begin(), bytes.end(), std::byte{2});
  const std::array copies = {GuestCopy{edge, Access::kWrite, bytes.data(), kPageSize},
                             GuestCopy{BlockAt(1), Access::kWrite, bytes.data(), kPageSize}};
  ASSERT_EQ(side().access.TryCopy(*reader_, copies), 2u);
  blocks().Set(1, 1, false);
  std::fill(bytes.begin(), bytes.end(), std::byte{3});
  EXPECT_EQ(side().access.TryCopy(*reader_, copies), 1u);
  EXPECT_EQ(ByteAt(edge), 3);
  EXPECT_EQ(ByteAt(BlockAt(1)), 2);
  EXPECT_FALSE(side().access.AreMapped(*reader_, {GfnOf(edge), GfnOf(edge) + 2}));
  EXPECT_TRUE(absl::IsOutOfRange(side().access.Write(*reader_, edge, bytes)));
  EXPECT_EQ(ByteAt(BlockAt(1)), 2);
}

TEST_P(MemTest, ABufferOrARingInABlockThatIsNotPluggedBreaksTheRules) {
  FakeDriver other(side(), 16, 6);
  queue().Start(other.layout(), virtio::kVersion1);
  const virtio::Descriptor buffer{.gpa = BlockAt(1).value - 8,
                                  .bytes = 16,
                                  .flags = virtio::Descriptor::kDeviceWrites,
                                  .next = 0};
  other.SetDescriptor(0, buffer);
  ASSERT_EQ(Plug(0), VIRTIO_MEM_RESP_ACK);
  other.Offer(0);
  EXPECT_EQ(Pop(), QueueOutcome::kBroken);
  ASSERT_EQ(Plug(1), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(Pop(), QueueOutcome::kDone);
  queue().Stop();

  const virtio::RingLayout layout{.size = 16,
                                  .descriptors = BlockAt(1),
                                  .available = BlockAt(1) + kPageSize,
                                  .used = BlockAt(2)};
  EXPECT_FALSE(virtio::Virtqueue::LayoutIsValid(*side().memory, layout));
  ASSERT_EQ(Plug(2), VIRTIO_MEM_RESP_ACK);
  EXPECT_TRUE(virtio::Virtqueue::LayoutIsValid(*side().memory, layout));
  queue().Start(layout, virtio::kVersion1);
  EXPECT_EQ(Pop(), QueueOutcome::kEmpty);
  ASSERT_EQ(Unplug(1), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(Pop(), QueueOutcome::kBroken);
  EXPECT_FALSE(side().pagemap.Read(HvaAt(1) + kPageSize).present);
  queue().Stop();
}

// The pages of a balloon's request are memory of the guest.
TEST_P(MemTest, WhatTheGuestMayUseGrowsAndShrinksWithTheBlocks) {
  const uint64_t before = side().memory->usable_bytes();
  EXPECT_EQ(before, MemorySide::kBytes);
  ASSERT_EQ(Plug(0, 3), VIRTIO_MEM_RESP_ACK);
  EXPECT_EQ(side().memory->usable_bytes(), before + 3 * kHotplugBlockBytes);
  EXPECT_TRUE(side().memory->IsRam(BlockAt(0) - 8, 16));
  EXPECT_FALSE(side().memory->IsRam(BlockAt(3) - 8, 16));
  EXPECT_FALSE(side().memory->IsRam(BlockAt(kBlocks) - 8, 16));
}

// Devices write to a block as fast as they can, with sections of their own and by announced calls, while
// it is plugged and unplugged. After an answer nothing is there.
TEST_P(MemTest, NoByteReachesABlockAfterItWasUnplugged) {
  constexpr int kRounds = 60;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> written{0};
  std::thread other([&] {
    Reader reader(mmu().readers());
    const std::vector<std::byte> bytes(3 * kPageSize, std::byte{0x5a});
    while (!stop) {
      if (side().access.Write(reader, BlockAt(0) + 100, bytes).ok()) ++written;
    }
  });
  uint64_t wrong = 0;
  uint64_t seen = 0;
  for (int round = 0; round < kRounds; ++round) {
    ASSERT_EQ(Plug(0), VIRTIO_MEM_RESP_ACK);
    const uint64_t before = written;
    EXPECT_TRUE(WaitUntil([&] { return written > before; }));
    ASSERT_EQ(Unplug(0), VIRTIO_MEM_RESP_ACK);
    for (uint64_t page = 0; page < 4; ++page) {
      ++seen;
      const std::byte* const bytes =
          static_cast<const std::byte*>(PointerOf(HvaAt(0) + page * kPageSize));
      wrong += std::any_of(bytes, bytes + kPageSize, [](std::byte b) { return b != std::byte{0}; });
    }
  }
  stop = true;
  other.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(seen, 4u * kRounds);
}

UNDERFOOT_FOR_BOTH_BACKINGS(MemTest);

}  // namespace
}  // namespace underfoot::testing
