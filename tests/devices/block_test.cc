// The block device: each kind of request, the file behind it, and what the driver gets when the
// file or the guest's memory fails.

#include "vmm/devices/virtio/block.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/virtio_ids.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include "tests/control/scratch.h"
#include "tests/devices/block_fixture.h"
#include "tests/support/interrupted_calls.h"
#include "tests/support/random.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using virtio::Descriptor;
using virtio::Disk;
using virtio::RawDisk;

TEST_P(BlockTest, TheConfigurationDescribesTheDisk) {
  virtio_blk_config config;
  device().Read(VIRTIO_MMIO_CONFIG, std::as_writable_bytes(std::span(&config, 1)));
  EXPECT_EQ(Register(VIRTIO_MMIO_DEVICE_ID), uint32_t{VIRTIO_ID_BLOCK});
  EXPECT_EQ(config.capacity, FakeDisk::kSectors);
  EXPECT_EQ(config.num_queues, 2u);
  EXPECT_EQ(config.blk_size, Disk::kSectorBytes);
  EXPECT_EQ(block_->features() & (uint64_t{1} << VIRTIO_BLK_F_RO), 0u);
  disk_->read_only_ = true;
  EXPECT_NE(block_->features() & (uint64_t{1} << VIRTIO_BLK_F_RO), 0u);
  EXPECT_EQ(block_->features() & (uint64_t{1} << VIRTIO_BLK_F_DISCARD), 0u);
}

// In as many parts as the driver likes, also across pages and the pieces of the buffer.
TEST_P(BlockTest, WhatIsWrittenIsReadBack) {
  Random random;
  for (const uint64_t sectors : {1u, 7u, 8u, 513u, 1100u}) {
    const uint64_t bytes = sectors * Disk::kSectorBytes;
    ASSERT_LE(bytes, kPayloadPages * kPageSize);
    const uint64_t sector = random.Below(FakeDisk::kSectors - sectors);
    std::vector<std::byte> content(bytes);
    for (std::byte& byte : content) byte = static_cast<std::byte>(random.Next());
    std::memcpy(Payload(), content.data(), bytes);
    const uint64_t cut = random.Between(1, bytes - 1);
    EXPECT_EQ(
        Ask(VIRTIO_BLK_T_OUT, sector, {PayloadIs(cut, false), PayloadIs(bytes - cut, false, cut)}),
        kDone);
    EXPECT_EQ(std::memcmp(&disk_->bytes_[sector * Disk::kSectorBytes], content.data(), bytes), 0);
    std::memset(Payload(), 0, bytes);
    const auto [status, written] =
        Ask(VIRTIO_BLK_T_IN, sector, {PayloadIs(cut, true), PayloadIs(bytes - cut, true, cut)});
    EXPECT_EQ(status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(written, bytes + 1);
    EXPECT_EQ(std::memcmp(Payload(), content.data(), bytes), 0);
  }
  EXPECT_EQ(counters().errors.Get(), 0u);
  EXPECT_EQ(counters().to_guest_bytes.Get(), counters().from_guest_bytes.Get());
  EXPECT_GT(counters().bounced.Get(), counters().requests.Get()) << "long requests go in pieces";
}

TEST_P(BlockTest, EachPageThatIsReadIntoIsInTheDirtyLog) {
  const uint32_t slot = side().memory->slots()[2].id;
  ASSERT_TRUE(mmu().SetMemslotFlags(slot, {.log_dirty = true}).ok());
  const uint64_t bytes = 3 * kPageSize;
  // The driver's own first accesses are faults of this process, which the monitor notes as writes.
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(bytes, true, 512)}).first, VIRTIO_BLK_S_OK);
  ASSERT_TRUE(mmu().CollectDirty(slot).ok());
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(bytes, true, 512)}).first, VIRTIO_BLK_S_OK);
  std::vector<uint64_t> dirty;
  mmu().CollectDirty(slot)->ForEach([&](uint64_t page) { dirty.push_back(page); });
  for (const uint64_t page : {kStatus, kPayload, kPayload + 1, kPayload + 2, kPayload + 3}) {
    EXPECT_TRUE(std::find(dirty.begin(), dirty.end(), page) != dirty.end()) << page;
  }
  EXPECT_TRUE(std::find(dirty.begin(), dirty.end(), kHeader) == dirty.end());
}

TEST_P(BlockTest, FlushGetIdDiscardAndWriteZeroes) {
  EXPECT_EQ(Ask(VIRTIO_BLK_T_FLUSH, 0, {}), kDone);
  EXPECT_EQ(disk_->flushes_, 1);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_GET_ID, 0, {PayloadIs(20, true)}).second, 21u);
  EXPECT_EQ(std::memcmp(Payload(), "a disk with a long name", 20), 0);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_GET_ID, 0, {PayloadIs(19, true)}), kError);
  const auto byte = [&](uint64_t sector) {
    return std::to_integer<int>(disk_->bytes_[sector * Disk::kSectorBytes]);
  };
  std::fill(disk_->bytes_.begin(), disk_->bytes_.end(), std::byte{0x77});
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{1, 2, 0}, {9, 1, 0}}), kDone);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{4, 1, 0}}), kDone);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{5, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}),
            kDone);
  EXPECT_EQ(byte(0), 0x77);
  EXPECT_EQ(byte(1), 0xdd);
  EXPECT_EQ(byte(2), 0xdd);
  EXPECT_EQ(byte(3), 0x77);
  EXPECT_EQ(byte(4), 0x00);
  EXPECT_EQ(byte(5), 0x01);
  EXPECT_EQ(byte(9), 0xdd);
}

TEST_P(BlockTest, ARequestThatIsWrongGetsAnErrorAndChangesNothing) {
  const uint64_t end = FakeDisk::kSectors;
  const std::vector<std::byte> before = disk_->bytes_;
  std::memset(Payload(), 0x11, 4 * kPageSize);
  for (const uint32_t type : {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT}) {
    const bool in = type == VIRTIO_BLK_T_IN;
    EXPECT_EQ(Ask(type, end, {PayloadIs(512, in)}), kError);
    EXPECT_EQ(Ask(type, end - 1, {PayloadIs(1024, in)}), kError);
    EXPECT_EQ(Ask(type, ~uint64_t{0}, {PayloadIs(512, in)}), kError);
    EXPECT_EQ(Ask(type, uint64_t{1} << 55, {PayloadIs(512, in)}), kError) << "the offset wraps";
    EXPECT_EQ(Ask(type, 0, {PayloadIs(511, in)}), kError);
  }
  EXPECT_EQ(Ask(0x1234, 0, {PayloadIs(512, true)}), kUnsupported);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}, {end, 1, 0}}), kError);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{0, 0, 0}}), kError);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{0, 1, 1}}), kUnsupported);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 2}}), kUnsupported);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 0xffffffff, 0}}), kError);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{~uint64_t{0}, 2, 0}}), kError);
  EXPECT_EQ(
      AskRanges(VIRTIO_BLK_T_DISCARD, std::vector<virtio_blk_discard_write_zeroes>(17, {0, 1, 0})),
      kError);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_DISCARD, 0, {PayloadIs(15, false)}), kError);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_DISCARD, 0, {}), kError);
  EXPECT_EQ(disk_->bytes_, before);
  EXPECT_FALSE(NeedsReset());
  EXPECT_EQ(counters().errors.Get(), counters().requests.Get());
}

TEST_P(BlockTest, NothingChangesADiskThatIsReadOnly) {
  disk_->read_only_ = true;
  const std::vector<std::byte> before = disk_->bytes_;
  std::memset(Payload(), 0x11, kPageSize);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {PayloadIs(512, false)}), kError);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), kError);
  EXPECT_EQ(AskRanges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 0}}), kError);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(512, true)}).first, VIRTIO_BLK_S_OK);
  EXPECT_EQ(Ask(VIRTIO_BLK_T_FLUSH, 0, {}), kDone);
  EXPECT_EQ(disk_->bytes_, before);
}

TEST_P(BlockTest, AnErrorOfTheFileReachesTheDriverAndIsCounted) {
  uint64_t errors = 0;
  for (const int error : {EIO, ENOSPC, EDQUOT}) {
    disk_->error_ = error;
    EXPECT_EQ(Ask(VIRTIO_BLK_T_IN, 0, {PayloadIs(512, true)}), kError);
    EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {PayloadIs(512, false)}), kError);
    EXPECT_EQ(Ask(VIRTIO_BLK_T_FLUSH, 0, {}), kError);
    EXPECT_EQ(AskRanges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), kError);
    errors += 4;
  }
  EXPECT_EQ(counters().errors.Get(), errors);
  EXPECT_EQ(counters().file_errors.Get(), errors);
  EXPECT_EQ(block_->first_error(), "read at byte 0 of the disk: Input/output error");
  disk_->error_ = 0;
  EXPECT_EQ(Ask(VIRTIO_BLK_T_OUT, 0, {PayloadIs(512, false)}), kDone);
}

// Of a long request only the call that is under way is waited for.
TEST_P(BlockTest, ARequestWhoseDeviceIsResetMakesNoFurtherCall) {
  disk_->at_call_ = [this] { SetRegister(VIRTIO_MMIO_STATUS, 0); };
  disk_->short_by_ = 1;  // a direct read fails
  constexpr uint64_t kTwoPieces = 2 * virtio::Block::kBufferBytes;
  const auto offer_and_wait = [&](uint32_t type, const std::vector<virtio::Descriptor>& payload) {
    disk_->calls_ = 0;
    Offer(type, 0, payload);
    ASSERT_TRUE(WaitUntil([&] { return disk_->calls_ > 0 && Register(VIRTIO_MMIO_STATUS) == 0; }));
    EXPECT_EQ(disk_->calls_, 1) << "type " << type;
    EXPECT_EQ(driver().UsedIndex(), 0u);
    driver_.emplace(side());
    Run();
  };
  offer_and_wait(VIRTIO_BLK_T_IN, {PayloadIs(kTwoPieces, true)});
  offer_and_wait(VIRTIO_BLK_T_OUT, {PayloadIs(kTwoPieces, false)});
  for (const uint32_t type : {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES}) {
    const std::array<virtio_blk_discard_write_zeroes, 2> ranges = {{{1, 2, 0}, {9, 1, 0}}};
    std::memcpy(Payload(), ranges.data(), sizeof(ranges));
    offer_and_wait(type, {PayloadIs(sizeof(ranges), false)});
  }
}

TEST_P(BlockTest, ARequestWithoutRoomForAStatusNeedsAReset) {
  driver().SetChain(0, {Readable(kHeader, sizeof(virtio_blk_outhdr))});
  driver().Offer(0);
  Notify();
  EXPECT_TRUE(WaitUntil([&] { return NeedsReset(); }));
}

// While brackets come and go over the rings and the payload.
TEST_P(BlockTest, NoByteIsWrongWhileTheMemoryIsInvalidatedAllTheTime) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> brackets{0};
  std::thread host([&] {
    Random random(1);
    while (!stop) {
      const uint64_t first = random.Below(kPayload + 8);
      InvalidationScope bracket(mmu().notifier(), {side().Pages(first, random.Between(1, 4))});
      ++brackets;
    }
  });
  Random random;
  uint64_t wrong = 0;
  for (int n = 0; n < 300; ++n) {
    const uint64_t bytes = random.Between(1, 64) * Disk::kSectorBytes;
    const uint64_t sector = random.Below(FakeDisk::kSectors - 64);
    const uint64_t word = random.Next();
    for (uint64_t i = 0; i < bytes; i += 8) std::memcpy(Payload() + i, &word, sizeof(word));
    wrong += Ask(VIRTIO_BLK_T_OUT, sector, {PayloadIs(bytes, false)}) != kDone ? 1 : 0;
    std::memset(Payload(), 0, bytes);
    wrong += Ask(VIRTIO_BLK_T_IN, sector, {PayloadIs(bytes, true)}).second != bytes + 1 ? 1 : 0;
    for (uint64_t i = 0; i < bytes; i += 8) {
      wrong += std::memcmp(Payload() + i, &word, sizeof(word)) != 0 ? 1 : 0;
    }
  }
  EXPECT_TRUE(WaitUntil([&] { return brackets > 100; }));
  stop = true;
  host.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(counters().requests.Get(), 600u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(BlockTest);

class RawDiskTest : public ::testing::Test {
 protected:
  std::string MakeFile(uint64_t bytes) {
    const std::string path = scratch_ / "disk";
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
    return path;
  }

  Scratch scratch_;
};

TEST_F(RawDiskTest, AFileIsReadWrittenDiscardedAndZeroed) {
  const std::string path = MakeFile(1 << 20);
  auto disk = RawDisk::Open(path, false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->sectors(), 2048u);
  std::vector<std::byte> content(8192, std::byte{0x5a});
  ASSERT_EQ((*disk)->Write(4096, content), 0);
  ASSERT_EQ((*disk)->Flush(), 0);
  ASSERT_EQ((*disk)->WriteZeroes(4096, 512, false), 0);
  ASSERT_EQ((*disk)->WriteZeroes(4608, 512, true), 0);
  ASSERT_EQ((*disk)->Discard(5120, 512), 0);
  std::vector<std::byte> back(8192);
  ASSERT_EQ((*disk)->Read(4096, back), 0);
  for (size_t i = 0; i < 1024; ++i) ASSERT_EQ(back[i], std::byte{0}) << i;
  for (size_t i = 1536; i < back.size(); ++i) ASSERT_EQ(back[i], std::byte{0x5a}) << i;
  struct stat info {};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 1 << 20);
}

TEST_F(RawDiskTest, AFileThatHasBecomeShorterGivesAnInputOutputError) {
  const std::string path = MakeFile(1 << 20);
  auto disk = RawDisk::Open(path, true);
  ASSERT_TRUE(disk.ok()) << disk.status();
  std::vector<std::byte> bytes(4096);
  EXPECT_EQ((*disk)->Read((1 << 20) - 4096, bytes), 0);
  ASSERT_EQ(truncate(path.c_str(), (1 << 20) - 1024), 0);
  EXPECT_EQ((*disk)->Read((1 << 20) - 4096, bytes), EIO);
  EXPECT_EQ((*disk)->Write(0, bytes), EBADF) << "it was opened for reading";
}

TEST_F(RawDiskTest, ASystemCallThatIsInterruptedIsMadeAgain) {
  auto disk = RawDisk::Open(MakeFile(1 << 20), false);
  ASSERT_TRUE(disk.ok()) << disk.status();
  const std::vector<std::byte> content(4096, std::byte{0x5a});
  std::vector<std::byte> back(4096);
  const auto interrupted = [&](const auto& call) {
    const InterruptedCalls calls((*disk)->fd(), 3);
    call();
    EXPECT_EQ(calls.left(), 0) << "it was not interrupted";
  };
  interrupted([&] { EXPECT_EQ((*disk)->Write(512, content), 0); });
  interrupted([&] { EXPECT_EQ((*disk)->Read(512, back), 0); });
  EXPECT_EQ(back, content);
  back.assign(back.size(), std::byte{0});
  const iovec guest{back.data(), back.size()};
  interrupted([&] { EXPECT_EQ((*disk)->ReadOnce(512, std::span(&guest, 1)), 4096); });
  EXPECT_EQ(back, content);
  back.assign(back.size(), std::byte{0});
  const std::array<iovec, 2> parts{{{back.data(), 100}, {back.data() + 100, 3996}}};
  interrupted([&] { EXPECT_EQ((*disk)->ReadOnce(512, parts), 4096); });
  EXPECT_EQ(back, content);
  interrupted([&] { EXPECT_EQ((*disk)->Flush(), 0); });
}

TEST_F(RawDiskTest, AFileThatIsNotADiskIsRefusedWithTheReason) {
  const auto why = [](const std::string& path) {
    return std::string(RawDisk::Open(path, false).status().message());
  };
  EXPECT_THAT(why(scratch_ / "none"),
              AllOf(HasSubstr("No such file"), HasSubstr("a regular file"), HasSubstr(",ro")));
  EXPECT_THAT(why(scratch_ / "none,rw"), HasSubstr("nothing but ,ro may follow the path"));
  EXPECT_THAT(why(MakeFile(0)), HasSubstr("0 bytes"));
  EXPECT_THAT(why(MakeFile(32 * 1024 - 512)), HasSubstr("at least 32768 bytes"));
  EXPECT_THAT(why(MakeFile(40001)), HasSubstr("40001 bytes"));
  EXPECT_THAT(why("/dev/null"), HasSubstr("neither a regular file nor a block device"));
  const std::string fifo = scratch_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(why(fifo), HasSubstr("neither"));
  EXPECT_THAT(why(scratch_.path()), HasSubstr("cannot be opened"));
}

TEST_F(RawDiskTest, AFileHasOneWriterOrAnyNumberOfReaders) {
  const std::string path = MakeFile(1 << 20);
  {
    const auto writer = RawDisk::Open(path, false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const bool read_only : {false, true}) {
      const auto second = RawDisk::Open(path, read_only);
      EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
      EXPECT_THAT(std::string(second.status().message()), HasSubstr(path));
    }
  }
  const auto reader = RawDisk::Open(path, true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(RawDisk::Open(path, true).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(RawDisk::Open(path, false).status()));
}

TEST_F(RawDiskTest, TheRemedyForAWrongSizeKeepsTheContent) {
  const std::string path = MakeFile(5000001);
  EXPECT_THAT(std::string(RawDisk::Open(path, false).status().message()),
              HasSubstr("truncate -s %512 '" + path + "'"));
  EXPECT_THAT(std::string(RawDisk::Open(MakeFile(1000), false).status().message()),
              HasSubstr("truncate -s 1M '"));
}

TEST_F(RawDiskTest, ATemporaryDiskIsZeroes) {
  auto disk = RawDisk::Temporary(1 << 20);
  ASSERT_TRUE(disk.ok()) << disk.status();
  EXPECT_EQ((*disk)->sectors(), 2048u);
  std::vector<std::byte> bytes(4096, std::byte{1});
  ASSERT_EQ((*disk)->Read(0, bytes), 0);
  EXPECT_EQ(bytes, std::vector<std::byte>(4096));
}

}  // namespace
}  // namespace underfoot::testing
