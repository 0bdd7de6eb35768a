// The libc names lead to the hooks: in the executable that has them, and in a program of its own
// that has the shared library.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/hooks/told.h"

extern char** environ;

namespace underfoot::testing {
namespace {

std::vector<underfoot_call> CallsOf(Told& told) {
  std::vector<underfoot_call> calls;
  for (const underfoot_change& change : told.Take()) calls.push_back(change.call);
  return calls;
}

TEST(LibcNamesTest, EachLeadsToItsHook) {
  const int fd = memfd_create("libc-names", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate64(fd, 8 * kPageSize), 0);
  Told told(8, fd);
  void* const scratch = mmap64(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(scratch, MAP_FAILED);
  EXPECT_EQ(CallsOf(told).size(), 0u);
  const iovec part{told.At(0), kPageSize};
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  EXPECT_EQ(madvise(told.At(0), kPageSize, MADV_DONTNEED), 0);
  static_cast<void>(process_madvise(pidfd, &part, 1, MADV_PAGEOUT, 0));
  EXPECT_EQ(mprotect(told.At(0), kPageSize, PROT_READ), 0);
  EXPECT_EQ(pkey_mprotect(told.At(0), kPageSize, PROT_READ | PROT_WRITE, -1), 0);
  EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageSize), 0);
  EXPECT_EQ(fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageSize), 0);
  EXPECT_EQ(ftruncate(fd, 7 * kPageSize), 0);
  EXPECT_EQ(ftruncate64(fd, 6 * kPageSize), 0);
  EXPECT_EQ(mmap(told.At(1), kPageSize, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0), told.At(1));
  EXPECT_EQ(mremap(told.At(2), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, scratch),
            scratch);
  EXPECT_EQ(munmap(told.At(3), kPageSize), 0);
  EXPECT_EQ(
      CallsOf(told),
      (std::vector{UNDERFOOT_MADVISE, UNDERFOOT_MADVISE, UNDERFOOT_MPROTECT, UNDERFOOT_MPROTECT,
                   UNDERFOOT_FALLOCATE, UNDERFOOT_FALLOCATE, UNDERFOOT_FTRUNCATE,
                   UNDERFOOT_FTRUNCATE, UNDERFOOT_MMAP, UNDERFOOT_MREMAP, UNDERFOOT_MUNMAP}));
  EXPECT_EQ(munmap(scratch, kPageSize), 0);
  close(pidfd);
  close(fd);
}

// A posix_madvise of libc changes nothing, so there is nothing to tell.
TEST(LibcNamesTest, APosixMadviseTakesNoPage) {
  Told told(1);
  told.Word(0) = 4;
  EXPECT_EQ(posix_madvise(told.At(0), kPageSize, POSIX_MADV_DONTNEED), 0);
  EXPECT_EQ(told.Word(0), 4u);
}

TEST(LibcNamesTest, AProgramOfItsOwnIsToldOfWhatItsLibraryDoes) {
  const std::string program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "underfoot_attach_example";
  std::array<char*, 2> arguments{const_cast<char*>(program.c_str()), nullptr};
  pid_t child = -1;
  ASSERT_EQ(posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0)
      << program;
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// It finds a program in any state of its start: every call before main, and after, is the kernel's.
TEST(LibcNamesTest, APreloadedLibraryDisturbsNobody) {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::string preload = "LD_PRELOAD=" + (folder / "libunderfoot_hooks.so").string();
  std::array<char*, 2> environment{const_cast<char*>(preload.c_str()), nullptr};
  std::array<char*, 4> arguments{const_cast<char*>("/bin/bash"), const_cast<char*>("-c"),
                                 const_cast<char*>("x=$(seq 1 20000 | sort -n | tail -n 1); "
                                                   "[ $x = 20000 ]"),
                                 nullptr};
  pid_t child = -1;
  ASSERT_EQ(
      posix_spawn(&child, "/bin/bash", nullptr, nullptr, arguments.data(), environment.data()), 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace underfoot::testing
