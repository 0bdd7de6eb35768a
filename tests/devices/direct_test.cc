// Long reads, which go straight to guest memory by one system call, beside everything that can happen
// to that memory during the call.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "tests/control/scratch.h"
#include "tests/devices/block_fixture.h"
#include "tests/support/random.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using virtio::Disk;
using virtio::RawDisk;

constexpr uint64_t kLong = virtio::Request::kLeastDirectBytes;

// Long reads from a disk in memory. The test acts in the middle of the call.
class DirectTest : public BlockTest {
 protected:
  void SetUp() override {
    BlockTest::SetUp();
    if (side_ == nullptr) return;
    Random random;
    for (std::byte& byte : disk_->bytes_) byte = static_cast<std::byte>(random.Next());
  }

  uint64_t WrongBytes(uint64_t sector, uint64_t bytes) {
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < bytes; ++i) {
      wrong += Payload()[i] != disk_->bytes_[sector * Disk::kSectorBytes + i] ? 1 : 0;
    }
    return wrong;
  }
  void ExpectRead(uint64_t sector, uint64_t bytes, const std::vector<virtio::Descriptor>& payload) {
    const auto [status, written] = Ask(VIRTIO_BLK_T_IN, sector, payload);
    EXPECT_EQ(status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(written, bytes + 1);
    EXPECT_EQ(WrongBytes(sector, bytes), 0u);
  }
  HvaRange PayloadPages(uint64_t pages) { return side().Pages(kPayload, pages); }
};

TEST_P(DirectTest, ALongReadIsOneSystemCallAndAShortOneGoesThroughABuffer) {
  ExpectRead(3, kLong, {PayloadIs(kLong, true)});
  EXPECT_EQ(counters().direct.Get(), 1u);
  EXPECT_EQ(counters().bounced.Get(), 0u);
  ExpectRead(7, kLong - 512, {PayloadIs(kLong - 512, true)});
  EXPECT_EQ(counters().direct.Get(), 1u);
  EXPECT_EQ(counters().bounced.Get(), 1u);
  EXPECT_EQ(counters().to_guest_bytes.Get(), 2 * kLong - 512);
  // At no page's begin, and in three parts, the last of them first.
  const uint64_t part = 3 * kPageSize + 512;
  disk_->before_bytes_ = nullptr;
  const auto [status, written] =
      Ask(VIRTIO_BLK_T_IN, 0,
          {PayloadIs(part, true, 2 * part + 512), PayloadIs(part, true, part + 512),
           PayloadIs(part, true, 512)});
  EXPECT_EQ(status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(written, 3 * part + 1);
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::memcmp(Payload() + 512 + (2 - i) * part, &disk_->bytes_[i * part], part), 0);
  }
  EXPECT_EQ(counters().direct.Get(), 2u);
  EXPECT_EQ(counters().errors.Get(), 0u);
}

// The call reports all bytes, and they are gone with the page.
TEST_P(DirectTest, AReadWhosePageGoesDuringTheCallIsMadeAgain) {
  disk_->after_bytes_ = [&] { ASSERT_TRUE(side().hooks.Discard(PayloadPages(1)).ok()); };
  ExpectRead(0, 2 * kLong, {PayloadIs(2 * kLong, true)});
  EXPECT_EQ(counters().direct_again.Get(), 1u);
  EXPECT_EQ(counters().direct.Get(), 0u);
  EXPECT_EQ(counters().bounced.Get(), 1u);
}

TEST_P(DirectTest, AReadThatBeginsInsideABracketGoesThroughABufferAndWaitsForItsEnd) {
  std::optional<InvalidationScope> bracket;
  FaultIn(kPayload);
  bracket.emplace(mmu().notifier(), Invalidation{PayloadPages(1)});
  Offer(VIRTIO_BLK_T_IN, 0, {PayloadIs(kLong, true)});
  // Once the first fault has met the bracket, it waits for its End.
  EXPECT_FALSE(WaitUntil([&] { return disk_->direct_calls_ != 0; }, std::chrono::milliseconds(50)));
  EXPECT_EQ(driver().UsedIndex(), 0u);
  bracket.reset();
  EXPECT_EQ(Answer().first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(WrongBytes(0, kLong), 0u);
}

// A bracket over another page neither marks the request nor sends it through the buffer.
TEST_P(DirectTest, ABracketOfOtherPagesDoesNotDisturbARead) {
  disk_->before_bytes_ = [&] {
    InvalidationScope bracket(mmu().notifier(), {side().Pages(kPayload + 4)});
  };
  ExpectRead(0, kLong, {PayloadIs(kLong, true)});
  EXPECT_EQ(counters().direct.Get(), 1u);
}

// The request would be marked for ever if a Begin waited for it; here the Begin comes from inside.
TEST_P(DirectTest, ABracketInTheMiddleOfTheCallEndsBeforeTheCall) {
  std::atomic<bool> ended{false};
  disk_->before_bytes_ = [&] {
    std::thread host([&] { InvalidationScope bracket(mmu().notifier(), {PayloadPages(2)}); });
    host.join();
    ended = true;
  };
  ExpectRead(0, kLong, {PayloadIs(kLong, true)});
  EXPECT_TRUE(ended);
  EXPECT_EQ(counters().direct_again.Get(), 1u);
}

// The first faults mark the pages, and a collection takes that before the bytes come.
TEST_P(DirectTest, EachPageIsInTheDirtyLogAfterItsLastByte) {
  const uint32_t slot = side().memory->slots()[2].id;
  ASSERT_TRUE(mmu().SetMemslotFlags(slot, {.log_dirty = true}).ok());
  disk_->after_bytes_ = [&] { ASSERT_TRUE(mmu().CollectDirty(slot).ok()); };
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(kLong, true, 512)}).first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(counters().direct.Get(), 1u);
  std::vector<uint64_t> dirty;
  mmu().CollectDirty(slot)->ForEach([&](uint64_t page) { dirty.push_back(page); });
  for (uint64_t page = kPayload; page < kPayload + 5; ++page) {
    EXPECT_TRUE(std::find(dirty.begin(), dirty.end(), page) != dirty.end()) << page;
  }
}

TEST_P(DirectTest, ACallThatFailsOrIsShortIsMadeAgainThroughABuffer) {
  disk_->short_by_ = 512;
  ExpectRead(0, kLong, {PayloadIs(kLong, true)});
  EXPECT_EQ(counters().direct_again.Get(), 1u);
  EXPECT_EQ(counters().direct.Get(), 0u);
  disk_->error_ = EIO;
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(kLong, true)}), kError);
  EXPECT_EQ(counters().file_errors.Get(), 1u);
}

TEST_P(DirectTest, AReadIntoTwoMemslotsGoesThroughABuffer) {
  const RamSlot& next = side().memory->slots()[3];
  const std::vector<virtio::Descriptor> payload = {{.gpa = next.gpa.value - kLong,
                                                    .bytes = kLong,
                                                    .flags = virtio::Descriptor::kDeviceWrites,
                                                    .next = 0},
                                                   {.gpa = next.gpa.value,
                                                    .bytes = kLong,
                                                    .flags = virtio::Descriptor::kDeviceWrites,
                                                    .next = 0}};
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, payload), std::make_pair(0, uint32_t{2 * kLong + 1}));
  EXPECT_EQ(counters().direct.Get(), 0u);
  EXPECT_EQ(std::memcmp(PointerOf(next.hva - kLong), disk_->bytes_.data(), 2 * kLong), 0);
}

TEST_P(DirectTest, MemoryThatASystemCallMayStillWriteToIsNotUnmapped) {
  DirectRequest request(mmu().direct_requests(), mmu().in_flight(), mmu().memslots());
  const Gfn first = side().GfnAt(kPayload);
  ASSERT_TRUE(request.TryAnnounce({first, first + 1}).has_value());
  EXPECT_DEATH(std::destroy_at(side().ram.get()), "guest memory goes under a system call");
  EXPECT_TRUE(request.Withdraw());
}

UNDERFOOT_FOR_BOTH_BACKINGS(DirectTest);

// A real file, whose calls can be held up before they begin.
class HeldDisk final : public Disk {
 public:
  explicit HeldDisk(std::unique_ptr<RawDisk> file) : file_(std::move(file)) {}

  uint64_t sectors() const override { return file_->sectors(); }
  bool read_only() const override { return false; }
  std::string file() const override { return file_->file(); }
  std::string WhyFailed(int error) const override { return file_->WhyFailed(error); }
  int Read(uint64_t offset, std::span<std::byte> bytes) override {
    return file_->Read(offset, bytes);
  }
  ssize_t ReadOnce(uint64_t offset, std::span<const iovec> guest) override {
    in_call_ = true;
    while (held_) std::this_thread::yield();
    const ssize_t moved = file_->ReadOnce(offset, guest);
    moved_ = moved;
    returned_ = true;
    return moved;
  }
  int Write(uint64_t offset, std::span<const std::byte> bytes) override {
    return file_->Write(offset, bytes);
  }
  int Flush() override { return 0; }
  int Discard(uint64_t, uint64_t) override { return 0; }
  int WriteZeroes(uint64_t, uint64_t, bool) override { return 0; }

  const std::unique_ptr<RawDisk> file_;
  std::atomic<bool> held_{false};
  std::atomic<bool> in_call_{false};
  std::atomic<bool> returned_{false};
  std::atomic<ssize_t> moved_{0};
};

class DirectFileTest : public BlockTest {
 protected:
  static constexpr uint64_t kBytes = uint64_t{1} << 20;

  std::unique_ptr<Disk> MakeDisk() override {
    path_ = scratch_ / "disk";
    const UniqueFd fd(open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    content_.resize(kBytes);
    Random random;
    for (std::byte& byte : content_) byte = static_cast<std::byte>(random.Next());
    EXPECT_EQ(pwrite(fd.get(), content_.data(), kBytes, 0), ssize_t{kBytes});
    auto file = RawDisk::Open(path_, false);
    EXPECT_TRUE(file.ok()) << file.status();
    auto disk = std::make_unique<HeldDisk>(*std::move(file));
    held_ = disk.get();
    return disk;
  }
  void TearDown() override {
    if (held_ != nullptr) held_->held_ = false;
    BlockTest::TearDown();
  }
  HvaRange PayloadPages(uint64_t pages) { return side().Pages(kPayload, pages); }

  Scratch scratch_;
  std::string path_;
  std::vector<std::byte> content_;
  HeldDisk* held_ = nullptr;
};

TEST_P(DirectFileTest, AFileThatHasBecomeShorterGivesAnInputOutputError) {
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(4 * kLong, true)}).first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(counters().direct.Get(), 1u);
  ASSERT_EQ(truncate(path_.c_str(), 3 * kLong), 0);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(4 * kLong, true)}), kError);
  EXPECT_EQ(counters().file_errors.Get(), 1u);
  EXPECT_EQ(
      block_->first_error(),
      absl::StrCat("read at byte 0 of '", path_,
                   "': Input/output error; the file has become shorter: it has 49152 bytes, and "
                   "had 1048576"));
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(3 * kLong, true)}).first, VIRTIO_BLK_S_OK);
}

//   worker                              host
//                                       a bracket over the page; the page goes
//   preadv sleeps on the missing page,
//   which no handler brings in now
//                                       mprotect, and the wake after it
//   preadv returns: EFAULT
//                                       the permission comes back; End
//   the same bytes through the buffer
TEST_P(DirectFileTest, ACallThatWaitsForAPageGoesOnWhenThePageIsProtected) {
  held_->held_ = true;
  Offer(VIRTIO_BLK_T_IN, 0, {PayloadIs(kLong, true)});
  ASSERT_TRUE(WaitUntil([&] { return held_->in_call_.load(); }));
  {
    InvalidationScope bracket(mmu().notifier(), {PayloadPages(1)});
    ASSERT_TRUE(side().hooks.Discard(PayloadPages(1)).ok());
    const uint64_t faults = side().monitor.Stats().missing;
    held_->held_ = false;
    ASSERT_TRUE(WaitUntil([&] { return side().monitor.Stats().missing > faults; }));
    EXPECT_FALSE(held_->returned_);
    hooked::Protection protection(PayloadPages(1), PROT_NONE);
    ASSERT_TRUE(protection.status().ok());
    EXPECT_TRUE(WaitUntil([&] { return held_->returned_.load(); }));
    EXPECT_LT(held_->moved_, static_cast<ssize_t>(kLong));
  }
  EXPECT_EQ(Answer().first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(Payload(), content_.data(), kLong), 0);
  EXPECT_EQ(counters().direct_again.Get(), 1u);
}

// A worker whose file does not answer is not waited for, and gets no signal. RAM goes, and its
// addresses stay taken: the bytes that come in the end reach no other memory.
TEST_P(DirectFileTest, LateBytesReachNoOtherMemory) {
  held_->held_ = true;
  Offer(VIRTIO_BLK_T_IN, 0, {PayloadIs(kLong, true)});
  ASSERT_TRUE(WaitUntil([&] { return held_->in_call_.load(); }));
  ASSERT_TRUE(StopsAllBut("blk-0"));
  EXPECT_TRUE(mmu().direct_requests().AnnouncedOver(PayloadPages(1)));
  side().ram->LeaveReserved();
  void* const page = PointerOf(PayloadPages(1).begin);
  void* const other = mmap(page, kLong, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  EXPECT_EQ(other, MAP_FAILED) << "other memory came to where the bytes will arrive";
  held_->held_ = false;
  EXPECT_THAT(device().Stop(), ElementsAre());
  EXPECT_EQ(held_->moved_, -1);
  EXPECT_FALSE(mmu().direct_requests().AnnouncedOver(PayloadPages(1)));
  if (other != MAP_FAILED) munmap(other, kLong);
}

// Real changes of the host during real calls.
TEST_P(DirectFileTest, NoByteIsWrongWhileTheHostTakesThePages) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> changes{0};
  std::thread host([&] {
    Random random(1);
    while (!stop) {
      const uint64_t first = kPayload + random.Below(64);
      const HvaRange range = side().Pages(first, random.Between(1, 4));
      switch (random.Below(4)) {
        case 0:
          EXPECT_TRUE(hooked::Madvise(range, MADV_PAGEOUT).ok());
          break;
        case 1: {
          hooked::Protection protection(range, random.Below(2) == 0 ? PROT_NONE : PROT_READ);
          EXPECT_TRUE(protection.status().ok());
          break;
        }
        case 2:
          EXPECT_TRUE(hooked::WriteProtect(side().uffd, range).ok());
          break;
        default: {
          InvalidationScope bracket(mmu().notifier(), {range});
        }
      }
      ++changes;
      std::this_thread::yield();
    }
  });
  Random random;
  uint64_t wrong = 0;
  uint64_t n = 0;
  // As long as some have been disturbed and some have not.
  const auto enough = [&] {
    return n >= 200 && counters().direct.Get() > 20 && counters().direct_again.Get() > 0;
  };
  const auto read_one = [&] {
    ++n;
    const uint64_t bytes = kLong + random.Below(1024) * Disk::kSectorBytes;
    const uint64_t sector = random.Below((kBytes - bytes) / Disk::kSectorBytes + 1);
    wrong += Ask(VIRTIO_BLK_T_IN, sector, {PayloadIs(bytes, true)}).second != bytes + 1 ? 1 : 0;
    std::vector<std::byte> got(bytes);
    Reader reader(mmu().readers());
    EXPECT_TRUE(side().access.Read(reader, side().GpaAt(kPayload), got).ok());
    wrong += std::memcmp(got.data(), &content_[sector * Disk::kSectorBytes], bytes) != 0 ? 1 : 0;
    return enough();
  };
  EXPECT_TRUE(WaitUntil(read_one))
      << counters().direct.Get() << " direct, " << counters().direct_again.Get() << " again, "
      << changes << " changes";
  stop = true;
  host.join();
  EXPECT_EQ(wrong, 0u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(DirectFileTest);

}  // namespace
}  // namespace underfoot::testing
