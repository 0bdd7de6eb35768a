// Each hooked call: which parts of attached ranges it is reported for, and that results and errno
// are those of the system call.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <utility>
#include <vector>

#include "tests/hooks/memfd.h"
#include "tests/hooks/recorded_changes.h"
#include "tests/support/skip.h"
#include "vmm/base/unique_fd.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

UniqueFd PidfdOf(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

void ExpectOne(RecordedChanges& recorded, underfoot_call call, underfoot_effect effect,
               HvaRange range) {
  const std::vector<underfoot_change> changes = recorded.Take();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].call, call);
  EXPECT_EQ(changes[0].effect, effect);
  EXPECT_EQ(RecordedChanges::RangeOf(changes[0]), range);
  EXPECT_EQ(changes[0].error, 0);
}

TEST(HookedCallsTest, TheCallStandsBetweenBeginAndEnd) {
  RecordedChanges recorded(4);
  recorded.Word(1) = 5;
  uint64_t before = 0;
  uint64_t after = 5;
  recorded.at_begin = [&](const underfoot_change&) { before = recorded.Word(1); };
  recorded.at_end = [&](const underfoot_change&) { after = recorded.Word(1); };
  ASSERT_EQ(hooks::Madvise(recorded.At(1), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(before, 5u);
  EXPECT_EQ(after, 0u);
  ExpectOne(recorded, UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, recorded.Pages(1));
}

TEST(HookedCallsTest, ErrnoIsTheSystemCalls) {
  RecordedChanges recorded(2);
  recorded.at_begin = [](const underfoot_change&) { errno = EXDEV; };
  recorded.at_end = [](const underfoot_change&) { errno = ENOTTY; };
  errno = 0;
  EXPECT_EQ(hooks::Madvise(static_cast<char*>(recorded.At(0)) + 1, kPageSize, MADV_DONTNEED), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(recorded.Take().at(0).error, EINVAL);
  errno = EDOM;
  EXPECT_EQ(hooks::Madvise(recorded.At(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(errno, EDOM) << "a call that works leaves errno alone";
  EXPECT_EQ(hooks::Munmap(recorded.At(0), 0), -1);
  EXPECT_EQ(errno, EINVAL);
}

TEST(HookedCallsTest, ALengthIsRoundedUpAsTheKernelDoes) {
  RecordedChanges recorded(4);
  recorded.Word(2) = 1;
  ASSERT_EQ(hooks::Madvise(recorded.At(1), kPageSize + 1, MADV_DONTNEED), 0);
  EXPECT_EQ(recorded.Word(2), 0u);
  ExpectOne(recorded, UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, recorded.Pages(1, 2));
  EXPECT_EQ(hooks::Madvise(recorded.At(1), SIZE_MAX - kPageSize, MADV_DONTNEED), -1);
  EXPECT_EQ(recorded.Take().size(), 1u);
}

TEST(HookedCallsTest, AProcessMadviseOfItselfIsReportedForEachIovec) {
  const UniqueFd self = PidfdOf(getpid());
  RecordedChanges recorded(16);
  const RecordedChanges beside(1);
  std::vector<iovec> parts{{recorded.At(1), kPageSize},
                           {beside.At(0), kPageSize},
                           {recorded.At(4), 2 * kPageSize},
                           {recorded.At(6), kPageSize},
                           {recorded.At(9), kPageSize}};
  const ssize_t done =
      hooks::ProcessMadvise(self.get(), parts.data(), parts.size(), MADV_PAGEOUT, 0);
  if (done < 0 && errno == EINVAL) UNDERFOOT_SKIP("process_madvise knows no PAGEOUT here");
  const std::vector<underfoot_change> changes = recorded.Take();
  ASSERT_EQ(changes.size(), 3u);
  EXPECT_EQ(RecordedChanges::RangeOf(changes[2]), recorded.Pages(1));
  EXPECT_EQ(RecordedChanges::RangeOf(changes[1]), recorded.Pages(4, 3));
  EXPECT_EQ(RecordedChanges::RangeOf(changes[0]), recorded.Pages(9));
}

TEST(HookedCallsTest, AProcessMadviseOfVeryManyIovecsIsReportedForAllOfThem) {
  const UniqueFd self = PidfdOf(getpid());
  RecordedChanges recorded(1024);
  RecordedChanges last(1);
  std::vector<iovec> parts;
  for (uint64_t i = 0; i < 500; ++i) parts.push_back({recorded.At(2 * i), kPageSize});
  parts.push_back({last.At(0), kPageSize});
  static_cast<void>(hooks::ProcessMadvise(self.get(), parts.data(), parts.size(), MADV_PAGEOUT, 0));
  const std::vector<underfoot_change> changes = recorded.Take();
  for (uint64_t i = 0; i < 500; ++i) {
    bool covered = false;
    for (const underfoot_change& change : changes) {
      covered = covered || RecordedChanges::RangeOf(change).Contains(recorded.Pages(2 * i));
    }
    EXPECT_TRUE(covered) << i;
  }
  ExpectOne(last, UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, last.Pages(0));
}

TEST(HookedCallsTest, AProcessMadviseOfAnotherProcessIsNotReported) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  RecordedChanges recorded(1);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    char byte = 0;
    close(pipe_ends[1]);
    static_cast<void>(!read(pipe_ends[0], &byte, 1));
    _exit(0);
  }
  const UniqueFd other = PidfdOf(child);
  const iovec part{recorded.At(0), kPageSize};
  static_cast<void>(hooks::ProcessMadvise(other.get(), &part, 1, MADV_PAGEOUT, 0));
  EXPECT_TRUE(recorded.Take().empty());
  close(pipe_ends[0]);
  close(pipe_ends[1]);
  EXPECT_EQ(waitpid(child, nullptr, 0), child);
}

TEST(HookedCallsTest, IovecsThatCannotBeReadAreTheKernelsError) {
  const UniqueFd self = PidfdOf(getpid());
  RecordedChanges recorded(1);
  const auto* const nowhere = std::bit_cast<const iovec*>(uint64_t{0x10000});
  EXPECT_EQ(hooks::ProcessMadvise(self.get(), nowhere, 3, MADV_PAGEOUT, 0), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(hooks::ProcessMadvise(self.get(), nowhere, 5000, MADV_PAGEOUT, 0), -1);
  EXPECT_EQ(errno, EINVAL);
}

TEST(HookedCallsTest, AnUnmapIsReportedForItsPages) {
  RecordedChanges recorded(8);
  ASSERT_EQ(hooks::Munmap(recorded.At(2), 3 * kPageSize), 0);
  ExpectOne(recorded, UNDERFOOT_MUNMAP, UNDERFOOT_PAGES_GO, recorded.Pages(2, 3));
}

TEST(HookedCallsTest, AMoveIsReportedForBothRanges) {
  RecordedChanges from(4);
  RecordedChanges to(4);
  from.Word(1) = 9;
  ASSERT_EQ(
      hooks::Mremap(from.At(1), kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED, to.At(2)),
      to.At(2));
  EXPECT_EQ(to.Word(2), 9u);
  ExpectOne(from, UNDERFOOT_MREMAP, UNDERFOOT_PAGES_GO, from.Pages(1));
  ExpectOne(to, UNDERFOOT_MREMAP, UNDERFOOT_PAGES_GO, to.Pages(2));
}

TEST(HookedCallsTest, AShrinkIsReportedForItsTailAndAGrowthIsNot) {
  RecordedChanges recorded(8);
  ASSERT_EQ(hooks::Mremap(recorded.At(0), 8 * kPageSize, 5 * kPageSize, MREMAP_MAYMOVE, nullptr),
            recorded.At(0));
  ExpectOne(recorded, UNDERFOOT_MREMAP, UNDERFOOT_PAGES_GO, recorded.Pages(5, 3));
  ASSERT_EQ(hooks::Mremap(recorded.At(0), 5 * kPageSize, 6 * kPageSize, 0, nullptr),
            recorded.At(0));
  EXPECT_TRUE(recorded.Take().empty());
}

TEST(HookedCallsTest, AProtectionIsReportedByTheAccessThatItRevokes) {
  RecordedChanges recorded(2);
  for (const auto& [protection, effect] :
       {std::pair(PROT_READ, UNDERFOOT_WRITES_GO), std::pair(PROT_NONE, UNDERFOOT_PAGES_GO),
        std::pair(PROT_READ | PROT_WRITE, UNDERFOOT_NOTHING_GOES)}) {
    ASSERT_EQ(hooks::Mprotect(recorded.At(1), kPageSize, protection), 0);
    ExpectOne(recorded, UNDERFOOT_MPROTECT, effect, recorded.Pages(1));
  }
}

TEST(HookedCallsTest, OnlyAFixedMappingComesOverAnother) {
  RecordedChanges recorded(2);
  void* const beside =
      hooks::Mmap(recorded.At(1), kPageSize, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(beside, MAP_FAILED);
  EXPECT_EQ(hooks::Mmap(recorded.At(1), kPageSize, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
            MAP_FAILED);
  EXPECT_EQ(errno, EEXIST);
  EXPECT_TRUE(recorded.Take().empty());
  ASSERT_EQ(hooks::Mmap(recorded.At(1), kPageSize, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            recorded.At(1));
  ExpectOne(recorded, UNDERFOOT_MMAP, UNDERFOOT_PAGES_GO, recorded.Pages(1));
  ASSERT_EQ(hooks::Munmap(beside, kPageSize), 0);
}

TEST(HookedCallsTest, AHoleInAFileIsReportedForEachMapping) {
  const UniqueFd fd = Memfd(16);
  const UniqueFd again(dup(fd.get()));
  RecordedChanges whole(16, fd.get());
  RecordedChanges half(8, fd.get(), 8 * kPageSize);
  const UniqueFd other = Memfd(16);
  RecordedChanges unrelated(16, other.get());
  ASSERT_EQ(hooks::Fallocate(again.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             7 * kPageSize + 10, 3 * kPageSize),
            0);
  ExpectOne(whole, UNDERFOOT_FALLOCATE, UNDERFOOT_PAGES_GO, whole.Pages(7, 4));
  ExpectOne(half, UNDERFOOT_FALLOCATE, UNDERFOOT_PAGES_GO, half.Pages(0, 3));
  EXPECT_TRUE(unrelated.Take().empty());
  ASSERT_EQ(hooks::Fallocate(fd.get(), 0, 0, 16 * kPageSize), 0);
  EXPECT_TRUE(whole.Take().empty()) << "an allocation takes nothing";
}

TEST(HookedCallsTest, ARemovalThroughOneMappingIsReportedForTheOthers) {
  const UniqueFd fd = Memfd(16);
  RecordedChanges one(16, fd.get());
  RecordedChanges other(8, fd.get(), 4 * kPageSize);
  other.Word(1) = 3;
  ASSERT_EQ(hooks::Madvise(one.At(5), kPageSize, MADV_REMOVE), 0);
  EXPECT_EQ(other.Word(1), 0u);
  ExpectOne(one, UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, one.Pages(5));
  ExpectOne(other, UNDERFOOT_MADVISE, UNDERFOOT_PAGES_GO, other.Pages(1));
}

TEST(HookedCallsTest, AFileThatBecomesShorterLosesItsTail) {
  const UniqueFd fd = Memfd(16);
  RecordedChanges recorded(16, fd.get());
  ASSERT_EQ(hooks::Ftruncate(fd.get(), 12 * kPageSize + 5), 0);
  ExpectOne(recorded, UNDERFOOT_FTRUNCATE, UNDERFOOT_PAGES_GO, recorded.Pages(12, 4));
  ASSERT_EQ(hooks::Ftruncate(fd.get(), 16 * kPageSize), 0);
  EXPECT_TRUE(recorded.Take().empty()) << "a file that grows loses nothing";
  EXPECT_EQ(hooks::Ftruncate(-1, 0), -1);
  EXPECT_EQ(errno, EBADF);
}

TEST(HookedCallsTest, CallsInsideOfCallbacksAreReported) {
  RecordedChanges recorded(4);
  int nested = 0;
  recorded.at_begin = [&](const underfoot_change& change) {
    if (change.argument != MADV_DONTNEED || nested++ != 0) return;
    EXPECT_EQ(hooks::Madvise(recorded.At(0), 4 * kPageSize, MADV_PAGEOUT), 0);
  };
  ASSERT_EQ(hooks::Madvise(recorded.At(1), kPageSize, MADV_DONTNEED), 0);
  const std::vector<underfoot_change> changes = recorded.Take();
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].argument, MADV_PAGEOUT);
  EXPECT_EQ(changes[1].argument, MADV_DONTNEED);
}

}  // namespace
}  // namespace underfoot::testing
