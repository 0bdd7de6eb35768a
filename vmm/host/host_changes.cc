#include "vmm/host/host_changes.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/host/knob.h"
#include "vmm/unique_fd.h"

namespace underfoot {
namespace {

constexpr char kZramHotAdd[] = "/sys/class/zram-control/hot_add";

// What mkswap(8) writes: one page, include/linux/swap.h, union swap_header.
absl::Status WriteSwapHeader(const std::string& path, uint64_t bytes) {
  constexpr size_t kPage = 4096;
  constexpr uint64_t kVersion = 1;
  constexpr char kSignature[] = "SWAPSPACE2";
  std::array<char, kPage> header{};
  const auto last_page = static_cast<uint32_t>(bytes / kPage - 1);
  const auto version = static_cast<uint32_t>(kVersion);
  std::memcpy(&header[1024], &version, sizeof(version));
  std::memcpy(&header[1028], &last_page, sizeof(last_page));
  std::memcpy(&header[kPage - sizeof(kSignature) + 1], kSignature, sizeof(kSignature) - 1);
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() &&
      pwrite(fd.get(), header.data(), header.size(), 0) == static_cast<ssize_t>(header.size()) &&
      fsync(fd.get()) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrFormat("writing the swap header of %s", path));
}

}  // namespace

HostChanges::~HostChanges() {
  if (absl::Status undone = PutBack(); !undone.ok()) {
    std::fprintf(stderr, "underfoot: %s; `underfoot doctor --restore` tries again\n",
                 std::string(undone.message()).c_str());
  }
}

absl::Status HostChanges::PutBack() {
  for (auto change = journal_.changes().rbegin(); change != journal_.changes().rend(); ++change) {
    announce_(absl::StrFormat("host: putting back: %s", Describe(*change)));
  }
  return journal_.PutBack();
}

absl::Status HostChanges::SetKnob(const std::string& path, const std::string& value) {
  absl::StatusOr<std::string> before = ReadKnob(path);
  if (!before.ok()) return std::move(before).status();
  if (*before == value) {
    // Somebody else's run may have set it, and would take it back under us.
    const std::optional<std::string> original = journal_.OriginalOf(path);
    if (!original.has_value()) return absl::OkStatus();
    return journal_.Write({HostChangeKind::kKnob, path, *original});
  }
  announce_(absl::StrFormat("host: %s from %s to %s", path, *before, value));
  absl::Status written =
      journal_.Write({HostChangeKind::kKnob, path, journal_.OriginalOf(path).value_or(*before)});
  if (!written.ok()) return written;
  return WriteKnob(path, value);
}

absl::Status HostChanges::MountTracefs(const std::string& path) {
  if (std::filesystem::exists(path + "/events")) return absl::OkStatus();
  announce_("host: mounting tracefs at " + path);
  if (absl::Status written = journal_.Write({HostChangeKind::kMount, path, ""}); !written.ok()) {
    return written;
  }
  if (mount("tracefs", path.c_str(), "tracefs", 0, nullptr) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "mounting tracefs at " + path);
}

absl::StatusOr<std::string> HostChanges::MakeZram(uint64_t bytes) {
  absl::StatusOr<std::string> number = ReadKnob(kZramHotAdd);  // the read makes the device
  if (!number.ok()) return number;
  if (absl::Status written = journal_.Write({HostChangeKind::kZram, *number, ""}); !written.ok()) {
    static_cast<void>(WriteKnob("/sys/class/zram-control/hot_remove", *number));
    return written;
  }
  absl::Status sized =
      WriteKnob(absl::StrFormat("/sys/block/zram%s/disksize", *number), std::to_string(bytes));
  if (!sized.ok()) return sized;
  return "/dev/zram" + *number;
}

absl::StatusOr<std::string> HostChanges::MakeSwapFile(uint64_t bytes) {
  const std::string path = absl::StrFormat("/var/tmp/underfoot-swap-%d", getpid());
  if (absl::Status written = journal_.Write({HostChangeKind::kFile, path, ""}); !written.ok()) {
    return written;
  }
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.valid() && fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0) return path;
  return absl::ErrnoToStatus(errno, absl::StrFormat("making a swap file of %u bytes", bytes));
}

absl::Status HostChanges::AddSwap(uint64_t bytes) {
  announce_(absl::StrFormat("host: adding %u MiB of swap space", bytes >> 20));
  absl::StatusOr<std::string> path = MakeZram(bytes);
  if (!path.ok()) path = MakeSwapFile(bytes);
  if (!path.ok()) return std::move(path).status();
  if (absl::Status written = WriteSwapHeader(*path, bytes); !written.ok()) return written;
  if (absl::Status written = journal_.Write({HostChangeKind::kSwap, *path, ""}); !written.ok()) {
    return written;
  }
  if (swapon(path->c_str(), 0) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "swapon of " + *path);
}

}  // namespace underfoot
