// Calls by which the kernel changes more than their arguments say.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "tests/hooks/memfd.h"
#include "tests/hooks/recorded_changes.h"
#include "tests/support/skip.h"
#include "vmm/base/unique_fd.h"
#include "vmm/hooks/calls.h"
#include "vmm/hooks/mapping.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kHuge = uint64_t{2} << 20;

TEST(WideCallsTest, AProtectionThatGrowsDownwardsIsReportedBelowItsArguments) {
  RecordedChanges recorded(8);
  ASSERT_EQ(hooks::Mmap(recorded.At(0), 8 * kPageSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0),
            recorded.At(0));
  recorded.Take();
  ASSERT_EQ(hooks::Mprotect(recorded.At(4), kPageSize, PROT_NONE | PROT_GROWSDOWN), 0);
  const std::vector<underfoot_change> changes = recorded.Take();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(RecordedChanges::RangeOf(changes[0]), recorded.Pages(0, 5));
}

// Whether or not there are huge pages to be had: an attempt is reported too.
TEST(WideCallsTest, AMappingOfHugePagesIsReportedForAllOfThem) {
  RecordedChanges recorded(1024);
  const Hva aligned{(HvaOf(recorded.At(0)).value + kHuge - 1) & ~(kHuge - 1)};
  auto* const start = static_cast<char*>(PointerOf(aligned));
  for (const int size : {0, 21 << MAP_HUGE_SHIFT}) {
    void* const mapped = hooks::Mmap(
        start, kPageSize, PROT_READ,
        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | size, -1, 0);
    const std::vector<underfoot_change> changes = recorded.Take();
    ASSERT_EQ(changes.size(), 1u);
    const HvaRange whole{HvaOf(start), HvaOf(start) + kHuge};
    const HvaRange all = recorded.Pages(0, 1024);
    EXPECT_TRUE(RecordedChanges::RangeOf(changes[0]).Contains(whole.Intersect(all))) << size;
    // Small pages again, in one step: another thread's mapping could come into a hole.
    if (mapped == MAP_FAILED) continue;
    ASSERT_NE(
        mmap(start, kHuge, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
        MAP_FAILED);
  }
}

TEST(WideCallsTest, AMappingOfSmallPagesIsReportedForItsOwnRange) {
  RecordedChanges recorded(8);
  ASSERT_EQ(hooks::Mmap(recorded.At(1), kPageSize + 1, PROT_READ,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            recorded.At(1));
  const std::vector<underfoot_change> changes = recorded.Take();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(RecordedChanges::RangeOf(changes[0]), recorded.Pages(1, 2));
}

class UnattachedMapping {
 public:
  UnattachedMapping(int fd, uint64_t pages)
      : bytes_(pages * kPageSize),
        start_(
            static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0))) {}
  ~UnattachedMapping() { munmap(start_, bytes_); }
  UnattachedMapping(const UnattachedMapping&) = delete;
  UnattachedMapping& operator=(const UnattachedMapping&) = delete;
  char* At(uint64_t page) const { return start_ + page * kPageSize; }

 private:
  const uint64_t bytes_;
  char* const start_;
};

bool Reports(const std::vector<underfoot_change>& changes, HvaRange range) {
  for (const underfoot_change& change : changes) {
    if (RecordedChanges::RangeOf(change).Contains(range)) return true;
  }
  return false;
}

TEST(WideCallsTest, ARemovalThroughAnUnattachedMappingIsReported) {
  const UniqueFd fd = Memfd(16);
  RecordedChanges recorded(8, fd.get(), 4 * kPageSize);
  const UnattachedMapping other(fd.get(), 16);
  recorded.Word(1) = 3;
  ASSERT_EQ(hooks::Madvise(other.At(5), kPageSize, MADV_REMOVE), 0);
  EXPECT_EQ(recorded.Word(1), 0u);
  EXPECT_TRUE(Reports(recorded.Take(), recorded.Pages(1)));
  for (const int advice : {MADV_PAGEOUT, newer::kMadvCollapse}) {
    static_cast<void>(hooks::Madvise(other.At(5), kPageSize, advice));
    EXPECT_TRUE(Reports(recorded.Take(), recorded.Pages(1))) << advice;
  }
  ASSERT_EQ(hooks::Madvise(other.At(5), kPageSize, MADV_DONTNEED), 0);
  EXPECT_TRUE(recorded.Take().empty()) << "the file keeps its page";
}

TEST(WideCallsTest, ARemovalByProcessMadviseIsReportedForTheOtherMappings) {
  const UniqueFd fd = Memfd(4);
  RecordedChanges one(4, fd.get());
  RecordedChanges other(4, fd.get());
  const UniqueFd self(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
  const iovec part{one.At(2), kPageSize};
  static_cast<void>(hooks::ProcessMadvise(self.get(), &part, 1, MADV_REMOVE, 0));
  EXPECT_TRUE(Reports(one.Take(), one.Pages(2)));
  EXPECT_TRUE(Reports(other.Take(), other.Pages(2)));
}

// The kernel can say what file lies there from 6.11 on; on older kernels the call is reported for
// all files.
TEST(WideCallsTest, ARemovalOfAnotherFileIsNotReported) {
  const hooks::MappingQuery query;
  hooks::Mapping mapping;
  if (query.FindFrom({0}, &mapping) == hooks::MappingQuery::Answer::kUnknown) {
    UNDERFOOT_SKIP("PROCMAP_QUERY (Linux 6.11) is not there");
  }
  const UniqueFd fd = Memfd(4);
  const UniqueFd other_file = Memfd(4);
  RecordedChanges recorded(4, fd.get());
  const UnattachedMapping other(other_file.get(), 4);
  ASSERT_EQ(hooks::Madvise(other.At(1), kPageSize, MADV_REMOVE), 0);
  EXPECT_TRUE(recorded.Take().empty());
}

TEST(WideCallsTest, AShmdtIsReportedForTheWholeSegment) {
  const int segment = shmget(IPC_PRIVATE, 3 * kPageSize + 1, 0600);
  if (segment < 0) UNDERFOOT_SKIP("System V shared memory is not to be had");
  void* const start = hooks::Shmat(segment, nullptr, 0);
  ASSERT_NE(start, MAP_FAILED);
  int begins = 0;
  underfoot_range range{};
  range.start = static_cast<char*>(start) + 3 * kPageSize;  // the last page alone
  range.length = kPageSize;
  range.fd = -1;
  range.context = &begins;
  range.begin = [](void* count, underfoot_change*) { ++*static_cast<int*>(count); };
  range.end = [](void*, underfoot_change*) {};
  uint64_t handle = 0;
  ASSERT_EQ(hooks::Attach(range, &handle), 0);
  // As many pages as the segment has: REMAP replaces whatever is mapped at all of them.
  RecordedChanges beside(4);
  ASSERT_EQ(hooks::Shmdt(start), 0);
  EXPECT_EQ(begins, 1);
  // And one that comes over a mapping.
  ASSERT_EQ(hooks::Shmat(segment, beside.At(0), SHM_REMAP), beside.At(0));
  EXPECT_EQ(beside.Take().size(), 1u);
  ASSERT_EQ(hooks::Shmdt(beside.At(0)), 0);
  EXPECT_EQ(beside.Take().size(), 1u);
  EXPECT_EQ(hooks::Detach(handle), 0);
  shmctl(segment, IPC_RMID, nullptr);
}

}  // namespace
}  // namespace underfoot::testing
