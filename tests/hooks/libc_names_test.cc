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
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/hooks/recorded_changes.h"

extern char** environ;

namespace underfoot::testing {
namespace {

std::vector<underfoot_call> CallsOf(RecordedChanges& recorded) {
  std::vector<underfoot_call> calls;
  for (const underfoot_change& change : recorded.Take()) calls.push_back(change.call);
  return calls;
}

TEST(LibcNamesTest, EachLeadsToItsHook) {
  const int fd = memfd_create("libc-names", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate64(fd, 8 * kPageSize), 0);
  RecordedChanges recorded(8, fd);
  void* const scratch = mmap64(nullptr, kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(scratch, MAP_FAILED);
  EXPECT_EQ(CallsOf(recorded).size(), 0u);
  const iovec part{recorded.At(0), kPageSize};
  const auto pidfd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  EXPECT_EQ(madvise(recorded.At(0), kPageSize, MADV_DONTNEED), 0);
  static_cast<void>(process_madvise(pidfd, &part, 1, MADV_PAGEOUT, 0));
  EXPECT_EQ(mprotect(recorded.At(0), kPageSize, PROT_READ), 0);
  EXPECT_EQ(pkey_mprotect(recorded.At(0), kPageSize, PROT_READ | PROT_WRITE, -1), 0);
  EXPECT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageSize), 0);
  EXPECT_EQ(fallocate64(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kPageSize), 0);
  EXPECT_EQ(ftruncate(fd, 7 * kPageSize), 0);
  EXPECT_EQ(ftruncate64(fd, 6 * kPageSize), 0);
  EXPECT_EQ(mmap(recorded.At(1), kPageSize, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0),
            recorded.At(1));
  EXPECT_EQ(mremap(recorded.At(2), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, scratch),
            scratch);
  EXPECT_EQ(munmap(recorded.At(3), kPageSize), 0);
  EXPECT_EQ(
      CallsOf(recorded),
      (std::vector{UNDERFOOT_MADVISE, UNDERFOOT_MADVISE, UNDERFOOT_MPROTECT, UNDERFOOT_MPROTECT,
                   UNDERFOOT_FALLOCATE, UNDERFOOT_FALLOCATE, UNDERFOOT_FTRUNCATE,
                   UNDERFOOT_FTRUNCATE, UNDERFOOT_MMAP, UNDERFOOT_MREMAP, UNDERFOOT_MUNMAP}));
  EXPECT_EQ(munmap(scratch, kPageSize), 0);
  close(pidfd);
  close(fd);
}

// A posix_madvise of libc changes nothing, so nothing is reported.
TEST(LibcNamesTest, APosixMadviseTakesNoPage) {
  RecordedChanges recorded(1);
  recorded.Word(0) = 4;
  EXPECT_EQ(posix_madvise(recorded.At(0), kPageSize, POSIX_MADV_DONTNEED), 0);
  EXPECT_EQ(recorded.Word(0), 4u);
}

TEST(LibcNamesTest, AShrinkOfTheHeapIsReported) {
  static int begins = 0;
  char* const now = static_cast<char*>(sbrk(0));
  const uint64_t rest = (kPageSize - OffsetInPage(HvaOf(now))) % kPageSize;
  ASSERT_NE(sbrk(static_cast<intptr_t>(rest + 2 * kPageSize)), MAP_FAILED);
  underfoot_range range{};
  range.start = now + rest;
  range.length = 2 * kPageSize;
  range.fd = -1;
  range.begin = [](void*, underfoot_change*) { ++begins; };
  range.end = [](void*, underfoot_change*) {};
  uint64_t handle = 0;
  const int attached = hooks::Attach(range, &handle);
  const void* const shorter = sbrk(-static_cast<intptr_t>(kPageSize));
  const int after_sbrk = begins;
  const int cut = brk(now);
  const int after_brk = begins;
  EXPECT_EQ(attached, 0);
  EXPECT_NE(shorter, MAP_FAILED);
  EXPECT_EQ(cut, 0);
  EXPECT_EQ(after_sbrk, 1);
  EXPECT_EQ(after_brk, 2);
  EXPECT_EQ(hooks::Detach(handle), 0);
}

TEST(LibcNamesTest, AProgramGetsReportsOfTheCallsOfItsLibrary) {
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
TEST(LibcNamesTest, APreloadedLibraryDisturbsNoProgram) {
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

// What plugin_host prints, with `environment` set.
std::string HostSays(const std::string& environment) {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  const std::string command = "F=" + folder.string() + "; " + environment +
                              " $F/underfoot_plugin_host $F/libunderfoot_hooks.so 2>&1";
  FILE* const output = popen(command.c_str(), "r");
  std::array<char, 4096> text{};
  const size_t n = fread(text.data(), 1, text.size() - 1, output);
  EXPECT_EQ(pclose(output), 0) << text.data();
  return {text.data(), n};
}

TEST(LibcNamesTest, ALibraryThatIsLoadedTooLateRefusesToAttachWithTheReason) {
  const std::string says = HostSays("");
  for (const char* name : {"ENOTSUP", " madvise", " munmap", " brk", " sbrk", " shmat", " shmdt"}) {
    EXPECT_NE(says.find(name), std::string::npos) << name << " in " << says;
  }
  EXPECT_NE(says.find("begins 0"), std::string::npos) << says;
}

TEST(LibcNamesTest, ANameThatAnotherLibraryKeepsForItselfIsNamed) {
  const std::string says =
      HostSays("DEAF=1 LD_PRELOAD=$F/libunderfoot_other_munmap.so:$F/libunderfoot_hooks.so");
  EXPECT_NE(says.find("libunderfoot_hooks: munmap; link"), std::string::npos) << says;
}

TEST(LibcNamesTest, ALibraryInFrontThatHandsOnDisturbsNothing) {
  EXPECT_EQ(HostSays("LD_PRELOAD=$F/libunderfoot_other_munmap.so:$F/libunderfoot_hooks.so"),
            "no error; begins 1; other 1\n");
}

TEST(LibcNamesTest, TheNextLibraryWithTheNameGetsTheCall) {
  EXPECT_EQ(HostSays("LD_PRELOAD=$F/libunderfoot_hooks.so:$F/libunderfoot_other_munmap.so"),
            "no error; begins 1; other 1\n");
}

}  // namespace
}  // namespace underfoot::testing
