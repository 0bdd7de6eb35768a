#include "vmm/devices/virtio/disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <system_error>
#include <vector>

#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/file_lock.h"

namespace underfoot::virtio {
namespace {

// EINTR is handled here and nowhere else.
template <class Call>
auto Retried(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

template <class Call>
int ErrnoOf(const Call& call) {
  return Retried(call) == 0 ? 0 : errno;
}

// Transfers all bytes: `call(done)` is a pread or pwrite of what follows the first `done` ones.
template <class Call>
int Whole(uint64_t bytes, const Call& call) {
  for (uint64_t done = 0; done < bytes;) {
    const ssize_t moved = Retried([&] { return call(done); });
    if (moved < 0) return errno;
    if (moved == 0) return EIO;  // the end of a file that has become shorter
    done += static_cast<uint64_t>(moved);
  }
  return 0;
}

absl::StatusOr<uint64_t> SizeOf(int fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, "fstat of " + path);
  if (S_ISREG(info.st_mode)) return static_cast<uint64_t>(info.st_size);
  uint64_t bytes = 0;
  if (S_ISBLK(info.st_mode) && ioctl(fd, BLKGETSIZE64, &bytes) == 0) return bytes;
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is neither a regular file nor a block device; give one", path));
}

std::string_view RemedyForNoFile(std::string_view path) {
  if (path.ends_with(",rw")) {
    return "; nothing but ,ro may follow the path, and without it the disk is writable";
  }
  return "; give a regular file, which `truncate -s 1G FILE` makes, or a block device, and ,ro "
         "behind "
         "it to use it read-only";
}

bool IsTmpfs(int fd) {
  struct statfs info {};
  return fstatfs(fd, &info) == 0 && info.f_type == TMPFS_MAGIC;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RawDisk>> RawDisk::Open(const std::string& path, bool read_only) {
  // Without O_NONBLOCK the open of a FIFO would wait for a writer. It has no effect on a disk.
  UniqueFd fd(Retried([&] {
    return open(path.c_str(), (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK);
  }));
  if (!fd.valid()) {
    const int error = errno;
    const bool may_be_read =
        !read_only && (error == EACCES || error == EROFS || error == EPERM || error == ETXTBSY);
    return absl::Status(
        absl::ErrnoToStatusCode(error),
        absl::StrFormat("'%s' cannot be opened for %s: %s%s", path,
                        read_only ? "reading" : "reading and writing", ErrnoText(error),
                        may_be_read       ? "; append ,ro to use it read-only"
                        : error == ENOENT ? RemedyForNoFile(path)
                                          : ""));
  }
  const absl::StatusOr<uint64_t> bytes = SizeOf(fd.get(), path);
  if (!bytes.ok()) return bytes.status();
  if (*bytes < kMinBytes || *bytes % kSectorBytes != 0) {
    const std::string_view larger = *bytes < kMinBytes ? "1M" : "%512";  // keeps the content
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' has %d bytes; a disk has whole sectors of %d bytes, and at least %d "
                        "bytes; a file grows to that by `truncate -s %s '%s'`",
                        path, *bytes, kSectorBytes, kMinBytes, larger, path));
  }
  if (const std::string_view why_not = LockFile(fd.get(), !read_only); !why_not.empty()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "'%s' %s; give each machine a disk of its own, or ,ro to all of them", path, why_not));
  }
  return std::unique_ptr<RawDisk>(
      new RawDisk(std::move(fd), absl::StrFormat("'%s'", path), *bytes / kSectorBytes, read_only));
}

absl::StatusOr<std::unique_ptr<RawDisk>> RawDisk::Temporary(uint64_t bytes) {
  UniqueFd fd(memfd_create("underfoot-disk", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "memfd_create for a temporary disk");
  if (Retried([&] { return ftruncate(fd.get(), static_cast<off_t>(bytes)); }) != 0) {
    return ErrnoStatus(errno, absl::StrFormat("ftruncate of a temporary disk to %d bytes", bytes));
  }
  return std::unique_ptr<RawDisk>(
      new RawDisk(std::move(fd), "the temporary disk", bytes / kSectorBytes, false));
}

std::string Disk::WhyFailed(int error) const { return ErrnoText(error); }

std::string RawDisk::WhyFailed(int error) const {
  const std::string why = Disk::WhyFailed(error);
  const absl::StatusOr<uint64_t> bytes = SizeOf(fd_.get(), file_);
  if (!bytes.ok() || *bytes >= sectors_ * kSectorBytes) return why;
  return absl::StrFormat("%s; the file has become shorter: it has %d bytes, and had %d", why,
                         *bytes, sectors_ * kSectorBytes);
}

RawDisk::RawDisk(UniqueFd fd, std::string file, uint64_t sectors, bool read_only)
    : fd_(std::move(fd)),
      file_(std::move(file)),
      sectors_(sectors),
      read_only_(read_only),
      in_memory_(IsTmpfs(fd_.get())) {}

bool RawDisk::TryRead(uint64_t offset, std::span<std::byte> bytes) {
  const auto at = static_cast<off_t>(offset);
  const iovec part{bytes.data(), bytes.size()};
  // tmpfs does not know the flag.
  const ssize_t moved = in_memory_
                            ? ReadInto(part, at)
                            : Retried([&] { return preadv2(fd_.get(), &part, 1, at, RWF_NOWAIT); });
  return moved == static_cast<ssize_t>(bytes.size());
}

ssize_t RawDisk::ReadInto(const iovec& part, off_t at) const {
  return Retried([&] { return pread(fd_.get(), part.iov_base, part.iov_len, at); });
}

int RawDisk::Read(uint64_t offset, std::span<std::byte> bytes) {
  return Whole(bytes.size(), [&](uint64_t done) {
    return pread(fd_.get(), &bytes[done], bytes.size() - done, static_cast<off_t>(offset + done));
  });
}

ssize_t RawDisk::ReadOnce(uint64_t offset, std::span<const iovec> guest) {
  const auto at = static_cast<off_t>(offset);
  if (guest.size() == 1) return ReadInto(guest.front(), at);
  return Retried(
      [&] { return preadv(fd_.get(), guest.data(), static_cast<int>(guest.size()), at); });
}

int RawDisk::Write(uint64_t offset, std::span<const std::byte> bytes) {
  return Whole(bytes.size(), [&](uint64_t done) {
    return pwrite(fd_.get(), &bytes[done], bytes.size() - done, static_cast<off_t>(offset + done));
  });
}

int RawDisk::Flush() {
  const int error = ErrnoOf([&] { return fdatasync(fd_.get()); });
  // A file that knows no synchronization has nothing that could be lost.
  return error == EINVAL ? 0 : error;
}

int RawDisk::Discard(uint64_t offset, uint64_t bytes) {
  const int error = ErrnoOf([&] {
    return fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(offset), static_cast<off_t>(bytes));
  });
  return error == EOPNOTSUPP ? 0 : error;
}

int RawDisk::WriteZeroes(uint64_t offset, uint64_t bytes, bool may_unmap) {
  const int mode = may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
  const int error = ErrnoOf([&] {
    return fallocate(fd_.get(), mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                     static_cast<off_t>(bytes));
  });
  if (error != EOPNOTSUPP) return error;
  const std::vector<std::byte> zeroes(std::min<uint64_t>(bytes, uint64_t{256} << 10));
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t here = std::min<uint64_t>(bytes - done, zeroes.size());
    if (const int failed = Write(offset + done, std::span(zeroes).first(here)); failed != 0) {
      return failed;
    }
    done += here;
  }
  return 0;
}

}  // namespace underfoot::virtio
