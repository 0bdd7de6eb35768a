#include "tests/support/interrupted_calls.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>

namespace underfoot::testing {
namespace {

// Relaxed: a test has set both before the calls begin.
std::atomic<int> interrupted_fd{-1};
std::atomic<int> interruptions{0};

bool IsInterrupted(int fd) {
  if (fd != interrupted_fd.load(std::memory_order_relaxed)) return false;
  if (interruptions.fetch_sub(1, std::memory_order_relaxed) > 0) return true;
  interruptions.store(0, std::memory_order_relaxed);
  return false;
}

template <class... Arguments>
long Call(long number, int fd, Arguments... arguments) {
  if (!IsInterrupted(fd)) return syscall(number, fd, arguments...);
  errno = EINTR;
  return -1;
}

}  // namespace

InterruptedCalls::InterruptedCalls(int fd, int times) {
  interruptions.store(times, std::memory_order_relaxed);
  interrupted_fd.store(fd, std::memory_order_relaxed);
}

InterruptedCalls::~InterruptedCalls() { interrupted_fd.store(-1, std::memory_order_relaxed); }

int InterruptedCalls::left() const { return interruptions.load(std::memory_order_relaxed); }

}  // namespace underfoot::testing

// In place of the C library's. An offset is one word on the machines that have KVM.
extern "C" {

ssize_t pread(int fd, void* buffer, size_t bytes, off_t offset) {
  return underfoot::testing::Call(SYS_pread64, fd, buffer, bytes, offset);
}

ssize_t pwrite(int fd, const void* buffer, size_t bytes, off_t offset) {
  return underfoot::testing::Call(SYS_pwrite64, fd, buffer, bytes, offset);
}

ssize_t preadv(int fd, const iovec* parts, int count, off_t offset) {
  return underfoot::testing::Call(SYS_preadv, fd, parts, count, offset, off_t{0});
}

int fdatasync(int fd) { return static_cast<int>(underfoot::testing::Call(SYS_fdatasync, fd)); }
}
