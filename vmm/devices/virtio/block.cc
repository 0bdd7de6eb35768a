#include "vmm/devices/virtio/block.h"

#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"

namespace underfoot::virtio {
namespace {

constexpr uint64_t kHeaderBytes = sizeof(virtio_blk_outhdr);
// The driver counts sectors of a range in 32 bits.
constexpr uint32_t kMaxRangeSectors = 0x3fffff;
// What is discarded or written with zeroes by one call. Where the host can only write the zeroes, more
// would take longer than an end of the machine may wait.
constexpr uint64_t kRangeBytes = uint64_t{16} << 20;

}  // namespace

Block::Block(std::unique_ptr<Disk> disk, uint16_t queues, const std::string& id)
    : disk_(std::move(disk)), queues_(queues), id_(id.substr(0, VIRTIO_BLK_ID_BYTES)) {
  config_.capacity = disk_->sectors();
  config_.seg_max = kMaxSegments;
  config_.blk_size = Disk::kSectorBytes;
  config_.num_queues = queues;
  config_.max_discard_sectors = kMaxRangeSectors;
  config_.max_discard_seg = kMaxRanges;
  config_.discard_sector_alignment = 1;
  config_.max_write_zeroes_sectors = kMaxRangeSectors;
  config_.max_write_zeroes_seg = kMaxRanges;
  config_.write_zeroes_may_unmap = 1;
}

uint32_t Block::device_id() const { return VIRTIO_ID_BLOCK; }

uint64_t Block::features() const {
  const uint64_t always = FeatureBit(VIRTIO_BLK_F_SEG_MAX) | FeatureBit(VIRTIO_BLK_F_BLK_SIZE) |
                          FeatureBit(VIRTIO_BLK_F_FLUSH) | FeatureBit(VIRTIO_BLK_F_MQ);
  if (disk_->read_only()) return always | FeatureBit(VIRTIO_BLK_F_RO);
  return always | FeatureBit(VIRTIO_BLK_F_DISCARD) | FeatureBit(VIRTIO_BLK_F_WRITE_ZEROES);
}

bool Block::Holds(uint64_t sector, uint64_t bytes) const {
  const uint64_t sectors = disk_->sectors();
  return bytes % Disk::kSectorBytes == 0 && sector <= sectors &&
         bytes / Disk::kSectorBytes <= sectors - sector;
}

std::string Block::first_error() const {
  absl::MutexLock lock(&mutex_);
  return first_error_;
}

uint8_t Block::StatusOf(Request& request, std::string_view operation, uint64_t offset, int error) {
  if (error == 0) return VIRTIO_BLK_S_OK;
  request.counters().file_errors.Add();
  std::string text = absl::StrFormat("%s at byte %d of %s: %s", operation, offset, disk_->file(),
                                     disk_->WhyFailed(error));
  absl::MutexLock lock(&mutex_);
  if (first_error_.empty()) first_error_ = std::move(text);
  return VIRTIO_BLK_S_IOERR;
}

// The last writable byte is the status, whatever the buffers look like (section 5.2.6).
Served Block::Serve(Request& request) {
  if (request.readable_bytes() < kHeaderBytes || request.writable_bytes() == 0) {
    return {.answered = false};
  }
  const uint64_t data_bytes = request.writable_bytes() - 1;
  const uint8_t status = Carry(request, data_bytes);
  if (status != VIRTIO_BLK_S_OK) request.counters().errors.Add();
  const std::byte last{status};
  if (!request.Write(data_bytes, std::span(&last, 1))) return {.answered = false};
  // After an error the data are undefined, and no count of theirs is claimed.
  return {.written = status == VIRTIO_BLK_S_OK ? static_cast<uint32_t>(data_bytes + 1) : 1};
}

uint8_t Block::Carry(Request& request, uint64_t data_bytes) {
  virtio_blk_outhdr header{};
  if (!request.Read(0, std::as_writable_bytes(std::span(&header, 1)))) return VIRTIO_BLK_S_IOERR;
  const bool changes = header.type == VIRTIO_BLK_T_OUT || header.type == VIRTIO_BLK_T_DISCARD ||
                       header.type == VIRTIO_BLK_T_WRITE_ZEROES;
  if (changes && disk_->read_only()) return VIRTIO_BLK_S_IOERR;
  switch (header.type) {
    case VIRTIO_BLK_T_IN:
      return ReadIntoGuest(request, header.sector, data_bytes);
    case VIRTIO_BLK_T_OUT:
      return WriteFromGuest(request, header.sector, request.readable_bytes() - kHeaderBytes);
    case VIRTIO_BLK_T_FLUSH:
      request.BeforeWait();
      return StatusOf(request, "flush", 0, disk_->Flush());
    case VIRTIO_BLK_T_GET_ID: {
      std::array<std::byte, VIRTIO_BLK_ID_BYTES> id{};
      if (data_bytes < id.size()) return VIRTIO_BLK_S_IOERR;
      std::transform(id_.begin(), id_.end(), id.begin(),
                     [](char c) { return static_cast<std::byte>(c); });
      return request.Write(0, id) ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
    }
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return ForEachRange(request, header.type == VIRTIO_BLK_T_DISCARD);
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
}

uint8_t Block::ReadIntoGuest(Request& request, uint64_t sector, uint64_t bytes) {
  if (!Holds(sector, bytes)) return VIRTIO_BLK_S_IOERR;
  const uint64_t begin = sector * Disk::kSectorBytes;
  if (bytes < Request::kLeastDirectBytes) return ReadByBuffer(request, begin, 0, bytes);
  for (uint64_t done = 0; done < bytes;) {
    if (request.abandoned()) return VIRTIO_BLK_S_IOERR;
    const uint64_t here = std::min(bytes - done, kDirectBytes);
    const uint64_t offset = begin + done;
    if (request.TryWriteDirectly(done, here, [&](std::span<const iovec> guest) {
          return disk_->ReadOnce(offset, guest);
        })) {
      request.counters().to_guest_bytes.Add(here);
    } else {
      const uint8_t status = ReadByBuffer(request, offset, done, here);
      if (status != VIRTIO_BLK_S_OK) return status;
    }
    done += here;
  }
  return VIRTIO_BLK_S_OK;
}

// `offset` in the file, `first` in the writable part of the request.
uint8_t Block::ReadByBuffer(Request& request, uint64_t offset, uint64_t first, uint64_t bytes) {
  for (uint64_t done = 0; done < bytes;) {
    if (request.abandoned()) return VIRTIO_BLK_S_IOERR;
    const std::span<std::byte> piece = request.Scratch(std::min(bytes - done, kBufferBytes));
    int error = 0;
    if (!disk_->TryRead(offset + done, piece)) {
      request.BeforeWait();
      error = disk_->Read(offset + done, piece);
    }
    if (error != 0) {
      return StatusOf(request, "read", offset + done, error);
    }
    if (!request.Write(first + done, piece)) return VIRTIO_BLK_S_IOERR;
    request.counters().bounced.Add();
    request.counters().to_guest_bytes.Add(piece.size());
    done += piece.size();
  }
  return VIRTIO_BLK_S_OK;
}

uint8_t Block::WriteFromGuest(Request& request, uint64_t sector, uint64_t bytes) {
  if (!Holds(sector, bytes)) return VIRTIO_BLK_S_IOERR;
  for (uint64_t done = 0; done < bytes;) {
    if (request.abandoned()) return VIRTIO_BLK_S_IOERR;
    const std::span<std::byte> piece = request.Scratch(std::min(bytes - done, kBufferBytes));
    if (!request.Read(kHeaderBytes + done, piece)) return VIRTIO_BLK_S_IOERR;
    const uint64_t offset = sector * Disk::kSectorBytes + done;
    request.BeforeWait();
    if (const int error = disk_->Write(offset, piece); error != 0) {
      return StatusOf(request, "write", offset, error);
    }
    request.counters().bounced.Add();
    request.counters().from_guest_bytes.Add(piece.size());
    done += piece.size();
  }
  return VIRTIO_BLK_S_OK;
}

uint8_t Block::ForEachRange(Request& request, bool discard) {
  using Range = virtio_blk_discard_write_zeroes;
  const uint64_t bytes = request.readable_bytes() - kHeaderBytes;
  if (bytes == 0 || bytes % sizeof(Range) != 0 || bytes / sizeof(Range) > kMaxRanges) {
    return VIRTIO_BLK_S_IOERR;
  }
  std::vector<Range> ranges(bytes / sizeof(Range));
  if (!request.Read(kHeaderBytes, std::as_writable_bytes(std::span(ranges)))) {
    return VIRTIO_BLK_S_IOERR;
  }
  // All are checked before the first is carried out.
  for (const Range& range : ranges) {
    const uint32_t known = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    if ((range.flags & ~known) != 0) return VIRTIO_BLK_S_UNSUPP;
    if (range.num_sectors == 0 || range.num_sectors > kMaxRangeSectors ||
        !Holds(range.sector, range.num_sectors * Disk::kSectorBytes)) {
      return VIRTIO_BLK_S_IOERR;
    }
  }
  request.BeforeWait();
  for (const Range& range : ranges) {
    const uint64_t length = range.num_sectors * Disk::kSectorBytes;
    for (uint64_t done = 0; done < length;) {
      if (request.abandoned()) return VIRTIO_BLK_S_IOERR;
      const uint64_t offset = range.sector * Disk::kSectorBytes + done;
      const uint64_t here = std::min(length - done, kRangeBytes);
      const int error = discard ? disk_->Discard(offset, here)
                                : disk_->WriteZeroes(offset, here, range.flags != 0);
      if (error != 0) {
        return StatusOf(request, discard ? "discard" : "write of zeroes", offset, error);
      }
      done += here;
    }
  }
  return VIRTIO_BLK_S_OK;
}

}  // namespace underfoot::virtio
