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
#include "mmu/mutant.h"
#include "vmm/host/knob.h"
#include "vmm/host/swap_file.h"
#include "vmm/unique_fd.h"

namespace underfoot {
namespace {

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
  if (!zram_.supported()) return absl::UnimplementedError("this kernel makes no zram devices");
  if (!UNDERFOOT_MUTANT("zram-before-journal")) {
    absl::Status noted = journal_.Write({HostChangeKind::kZramToBe, zram_.Next(), Zram::Now()});
    if (!noted.ok()) return noted;
  }
  absl::StatusOr<std::string> number = zram_.Make();
  if (!number.ok()) {
    absl::Status withdrawn = journal_.Withdraw();
    return withdrawn.ok() ? number.status() : withdrawn;
  }
  if (absl::Status named = journal_.Amend({HostChangeKind::kZram, *number, ""}); !named.ok()) {
    static_cast<void>(zram_.Remove(*number));
    return named;
  }
  if (absl::Status sized = zram_.SetSize(*number, bytes); !sized.ok()) return sized;
  return zram_.PathOf(*number);
}

absl::StatusOr<std::string> HostChanges::MakeSwapFile(uint64_t bytes) {
  std::string path = SwapFile::PathOf(places_);
  if (absl::Status written = journal_.Write({HostChangeKind::kFile, path, ""}); !written.ok()) {
    return written;
  }
  absl::StatusOr<UniqueFd> file = SwapFile::Make(places_, bytes);
  if (!file.ok()) return std::move(file).status();
  swap_file_ = *std::move(file);
  return path;
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
