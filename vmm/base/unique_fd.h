// A file descriptor that is closed by its owner's destructor.
//
// Thread safety: like an int.

#ifndef UNDERFOOT_VMM_BASE_UNIQUE_FD_H_
#define UNDERFOOT_VMM_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace underfoot {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) Reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { Reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset(int fd = -1) {
    // EINTR is ignored: Linux has closed the descriptor even then. A second close could close a
    // descriptor that another thread has just opened.
    if (fd_ >= 0) static_cast<void>(close(fd_));
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_BASE_UNIQUE_FD_H_
