#include "vmm/host/swap_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "vmm/base/errno_status.h"

namespace underfoot {
namespace {

namespace fs = std::filesystem;

constexpr char kPrefix[] = "underfoot-swap-";

// "underfoot-swap-" and a process number, written as PathOf writes it.
bool IsOurName(const std::string& name) {
  if (!name.starts_with(kPrefix)) return false;
  const std::string number = name.substr(sizeof(kPrefix) - 1);
  pid_t pid = 0;
  return absl::SimpleAtoi(number, &pid) && pid > 0 && number == std::to_string(pid);
}

bool HasSignature(int fd) {
  std::array<char, kSwapSignature.size()> end_of_page{};
  const off_t at = kSwapHeaderBytes - static_cast<off_t>(end_of_page.size());
  return pread(fd, end_of_page.data(), end_of_page.size(), at) ==
             static_cast<ssize_t>(end_of_page.size()) &&
         std::string_view(end_of_page.data(), end_of_page.size()) == kSwapSignature;
}

// Any user may create a file with this name. Only a file that belongs to our own user and has no
// other hard link counts.
bool IsOrphan(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat file {};
  if (!fd.valid() || fstat(fd.get(), &file) != 0) return false;
  if (!S_ISREG(file.st_mode) || file.st_uid != geteuid() || file.st_nlink != 1) return false;
  if (!HasSignature(fd.get())) return false;
  return flock(fd.get(), LOCK_SH | LOCK_NB) == 0;
}

}  // namespace

std::string SwapFile::PathOf(const HostPlaces& places) {
  return absl::StrFormat("%s/%s%d", places.swap_files, kPrefix, getpid());
}

absl::StatusOr<UniqueFd> SwapFile::Make(const HostPlaces& places, uint64_t bytes) {
  const std::string path = PathOf(places);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  struct stat file {};
  // Another process that searches for orphans may have opened the file: then it removes it, or the
  // lock cannot be taken.
  if (fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && fstat(fd.get(), &file) == 0 &&
      file.st_nlink == 1 && fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0) {
    return fd;
  }
  const int error = errno;
  // If the open failed, the file belongs to another process and must stay.
  if (fd.valid()) static_cast<void>(unlink(path.c_str()));
  return ErrnoStatus(error, absl::StrFormat("making %s, a swap file of %u bytes", path, bytes),
                     "free room there, or add swap space yourself");
}

std::vector<std::string> SwapFile::Orphans(const HostPlaces& places) {
  std::vector<std::string> orphans;
  std::error_code error;
  fs::directory_iterator entry(places.swap_files, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (IsOurName(name) && IsOrphan(entry->path())) {
      orphans.push_back(entry->path());
    }
  }
  return orphans;
}

absl::Status SwapFile::Remove(const std::string& path) {
  const bool off = swapoff(path.c_str()) == 0 || errno == EINVAL || errno == ENOENT ||
                   errno == EPERM;  // without the right to swap there cannot be swap space of ours
  if (off && (unlink(path.c_str()) == 0 || errno == ENOENT)) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, absl::StrFormat("removing the swap file %s", path));
}

}  // namespace underfoot
