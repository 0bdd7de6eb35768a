// What a block device reads and writes. RawDisk is a file or a block device of the host; a test puts
// another one in its place.
//
// Thread safety: any thread, several at once. Each function may sleep in a system call; the caller
// holds no section and no lock. The memory of a call is never guest RAM, except that of ReadOnce.

#ifndef UNDERFOOT_VMM_DEVICES_VIRTIO_DISK_H_
#define UNDERFOOT_VMM_DEVICES_VIRTIO_DISK_H_

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::virtio {

class Disk {
 public:
  static constexpr uint64_t kSectorBytes = 512;

  virtual ~Disk() = default;

  virtual uint64_t sectors() const = 0;
  virtual bool read_only() const = 0;
  // What is read and written, as a message names it.
  virtual std::string file() const { return "the disk"; }
  // The reason of an operation that has failed with this errno.
  virtual std::string WhyFailed(int error) const;

  // Each returns 0, or the errno of what failed. A file that is shorter than it was gives EIO.
  // Ranges are whole sectors within sectors().
  [[nodiscard]] virtual int Read(uint64_t offset, std::span<std::byte> bytes) = 0;
  // As Read, if the bytes are in memory. False: they are not, or cannot be read; the content of `bytes`
  // is undefined, and Read may wait for long.
  [[nodiscard]] virtual bool TryRead(uint64_t, std::span<std::byte>) { return false; }
  // One system call into guest RAM. Returns the number of bytes, which may be too small, or -1: the
  // caller then reads all of it by Read, and gets the error from there.
  [[nodiscard]] virtual ssize_t ReadOnce(uint64_t offset, std::span<const iovec> guest) = 0;
  [[nodiscard]] virtual int Write(uint64_t offset, std::span<const std::byte> bytes) = 0;
  [[nodiscard]] virtual int Flush() = 0;
  // A hint. What the range contains afterwards is undefined.
  [[nodiscard]] virtual int Discard(uint64_t offset, uint64_t bytes) = 0;
  // `may_unmap`: the range may also lose its space on the host.
  [[nodiscard]] virtual int WriteZeroes(uint64_t offset, uint64_t bytes, bool may_unmap) = 0;
};

class RawDisk final : public Disk {
 public:
  // Room for each queue and each vCPU of the built-in guest.
  static constexpr uint64_t kMinBytes = uint64_t{32} << 10;

  // The error names the file, what is wrong with it, and the remedy.
  static absl::StatusOr<std::unique_ptr<RawDisk>> Open(const std::string& path, bool read_only);
  // A file without a name, which goes with the disk.
  static absl::StatusOr<std::unique_ptr<RawDisk>> Temporary(uint64_t bytes);

  int fd() const { return fd_.get(); }
  uint64_t sectors() const override { return sectors_; }
  bool read_only() const override { return read_only_; }
  std::string file() const override { return file_; }
  // Adds that the file has become shorter, if it has.
  std::string WhyFailed(int error) const override;
  int Read(uint64_t offset, std::span<std::byte> bytes) override;
  bool TryRead(uint64_t offset, std::span<std::byte> bytes) override;
  ssize_t ReadOnce(uint64_t offset, std::span<const iovec> guest) override;
  int Write(uint64_t offset, std::span<const std::byte> bytes) override;
  int Flush() override;
  int Discard(uint64_t offset, uint64_t bytes) override;
  int WriteZeroes(uint64_t offset, uint64_t bytes, bool may_unmap) override;

 private:
  RawDisk(UniqueFd fd, std::string file, uint64_t sectors, bool read_only);
  // One part by pread, which takes less time than preadv.
  ssize_t ReadInto(const iovec& part, off_t at) const;

  UniqueFd fd_;
  const std::string file_;
  const uint64_t sectors_;
  const bool read_only_;
  const bool in_memory_;  // a file of tmpfs: there is nothing that a read could wait for
};

}  // namespace underfoot::virtio

#endif  // UNDERFOOT_VMM_DEVICES_VIRTIO_DISK_H_
