#include "vmm/host/host_changes.h"

#include <fcntl.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "vmm/base/unique_fd.h"
#include "vmm/host/knob.h"
#include "vmm/host/swap_file.h"

namespace underfoot {
namespace {

// Writes what mkswap(8) writes: one page with the swap header (union swap_header in
// include/linux/swap.h).
absl::Status WriteSwapHeader(const std::string& path, uint64_t bytes) {
  constexpr uint64_t kVersion = 1;
  std::array<char, kSwapHeaderBytes> header{};
  const auto last_page = static_cast<uint32_t>(bytes / kSwapHeaderBytes - 1);
  const auto version = static_cast<uint32_t>(kVersion);
  std::memcpy(&header[1024], &version, sizeof(version));
  std::memcpy(&header[1028], &last_page, sizeof(last_page));
  std::memcpy(&header[header.size() - kSwapSignature.size()], kSwapSignature.data(),
              kSwapSignature.size());
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() &&
      pwrite(fd.get(), header.data(), header.size(), 0) == static_cast<ssize_t>(header.size()) &&
      fsync(fd.get()) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrFormat("writing the swap header of %s", path));
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostChanges>> HostChanges::Take(Announce announce,
                                                               const HostPlaces& places) {
  absl::StatusOr<HostJournal> journal = HostJournal::Open(places);
  if (!journal.ok()) return std::move(journal).status();
  std::unique_ptr<HostChanges> changes(
      new HostChanges(std::move(announce), places, *std::move(journal)));
  // Undoes what a killed run left behind since the last check.
  if (absl::Status restored = changes->PutBack(); !restored.ok()) return restored;
  return changes;
}

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

absl::Status HostChanges::Undone(absl::Status why) {
  const absl::Status undone = journal_.UndoLast();
  return undone.ok() ? why : undone;
}

absl::Status HostChanges::NotMade(absl::Status why) {
  const absl::Status withdrawn = journal_.Withdraw();
  return withdrawn.ok() ? why : withdrawn;
}

absl::Status HostChanges::SetKnob(const std::string& path, const std::string& value) {
  absl::StatusOr<std::string> before = ReadKnob(path);
  if (!before.ok()) return std::move(before).status();
  if (*before == value) return absl::OkStatus();
  announce_(absl::StrFormat("host: %s from %s to %s", path, *before, value));
  if (absl::Status noted = journal_.Write({HostChangeKind::kKnob, path, *before}); !noted.ok()) {
    return noted;
  }
  absl::Status written = WriteKnob(path, value);
  return written.ok() ? written : NotMade(std::move(written));
}

absl::StatusOr<std::string> HostChanges::MakeZram(uint64_t bytes) {
  if (!zram_.supported()) return absl::UnimplementedError("this kernel makes no zram devices");
  absl::Status noted = journal_.Write({HostChangeKind::kZramToBe, zram_.Next(), Zram::Now()});
  if (!noted.ok()) return noted;
  absl::StatusOr<std::string> number = zram_.Make();
  if (!number.ok()) return NotMade(std::move(number).status());
  if (absl::Status named = journal_.Amend({HostChangeKind::kZram, *number, ""}); !named.ok()) {
    static_cast<void>(zram_.Remove(*number));
    return named;
  }
  if (absl::Status sized = zram_.SetSize(*number, bytes); !sized.ok()) return Undone(sized);
  return zram_.PathOf(*number);
}

absl::StatusOr<std::string> HostChanges::MakeSwapFile(uint64_t bytes) {
  std::string path = SwapFile::PathOf(places_);
  if (absl::Status written = journal_.Write({HostChangeKind::kFile, path, ""}); !written.ok()) {
    return written;
  }
  absl::StatusOr<UniqueFd> file = SwapFile::Make(places_, bytes);
  if (!file.ok()) return NotMade(std::move(file).status());
  swap_file_ = *std::move(file);
  return path;
}

absl::Status HostChanges::AddSwap(uint64_t bytes) {
  announce_(absl::StrFormat("host: adding %u MiB of swap space", bytes >> 20));
  absl::StatusOr<std::string> path = MakeZram(bytes);
  if (!path.ok()) path = MakeSwapFile(bytes);
  if (!path.ok()) return std::move(path).status();
  if (absl::Status written = WriteSwapHeader(*path, bytes); !written.ok()) return Undone(written);
  if (absl::Status noted = journal_.Write({HostChangeKind::kSwap, *path, ""}); !noted.ok()) {
    return noted;
  }
  if (swapon(path->c_str(), 0) == 0) return absl::OkStatus();
  return Undone(NotMade(absl::ErrnoToStatus(errno, "swapon of " + *path)));
}

}  // namespace underfoot
