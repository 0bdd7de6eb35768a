#include "vmm/host/swap_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "underfoot-swap-";

// Anybody may put a file of this name there: only one of our own user's that has no other name
// counts.
bool IsOrphan(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat file {};
  if (!fd.valid() || fstat(fd.get(), &file) != 0) return false;
  if (!S_ISREG(file.st_mode) || file.st_uid != geteuid() || file.st_nlink != 1) return false;
  return flock(fd.get(), LOCK_SH | LOCK_NB) == 0 || UNDERFOOT_MUTANT("swap-file-lock-is-ignored");
}

}  // namespace

std::string SwapFile::PathOf(const HostPlaces& places) {
  return absl::StrFormat("%s/%s%d", places.swap_files, kPrefix, getpid());
}

absl::StatusOr<UniqueFd> SwapFile::Make(const HostPlaces& places, uint64_t bytes) {
  const std::string path = PathOf(places);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  struct stat file {};
  // Whoever looks for orphans just now may have it: then it is gone, or not to be had.
  if (fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && fstat(fd.get(), &file) == 0 &&
      file.st_nlink == 1 && fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0) {
    return fd;
  }
  return absl::ErrnoToStatus(errno, absl::StrFormat("making %s, a swap file of %u bytes; free room "
                                                    "there, or add swap space yourself",
                                                    path, bytes));
}

std::vector<std::string> SwapFile::Orphans(const HostPlaces& places) {
  std::vector<std::string> orphans;
  std::error_code error;
  fs::directory_iterator entry(places.swap_files, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (absl::StartsWith(name, kPrefix) && IsOrphan(entry->path())) {
      orphans.push_back(entry->path());
    }
  }
  return orphans;
}

absl::Status SwapFile::Remove(const std::string& path) {
  const bool off = swapoff(path.c_str()) == 0 || errno == EINVAL || errno == ENOENT ||
                   errno == EPERM;  // without the right to swap there can be none of ours
  if (off && (unlink(path.c_str()) == 0 || errno == ENOENT)) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("removing the swap file %s", path));
}

}  // namespace underfoot
