// What the host lacks just now (threads, descriptors, locked memory, a page that is pinned) is an
// outcome: it is reported, and nothing waits for it without end.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/memory/memory_test.h"
#include "tests/support/no_room_for_threads.h"
#include "vmm/ageing/working_set.h"
#include "vmm/audit/auditor.h"
#include "vmm/base/bare_child.h"
#include "vmm/base/errno_status.h"
#include "vmm/base/newer_kernels.h"
#include "vmm/base/start_thread.h"
#include "vmm/base/unique_fd.h"
#include "vmm/churn/relocation.h"
#include "vmm/host/capability.h"
#include "vmm/sources/hooks/hooked_calls.h"
#include "vmm/sources/kernel/kernel_notifier.h"

// UBSan looks at an object through a pipe, for which no descriptor is left here: it would report
// that the object is none.
#ifdef __SANITIZE_ADDRESS__
#define UNDERFOOT_NEEDS_NO_DESCRIPTOR() GTEST_SKIP() << "the sanitizer's run time needs descriptors"
#else
#define UNDERFOOT_NEEDS_NO_DESCRIPTOR() static_cast<void>(0)
#endif

namespace underfoot::testing {
namespace {

// A lower soft limit, for a while.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t soft) : resource_(resource) {
    EXPECT_EQ(getrlimit(resource_, &before_), 0);
    const rlimit lower{soft, before_.rlim_max};
    EXPECT_EQ(setrlimit(resource_, &lower), 0);
  }
  ~Limit() { EXPECT_EQ(setrlimit(resource_, &before_), 0); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  const __rlimit_resource resource_;
  rlimit before_{};
};

// The calling thread is under RLIMIT_MEMLOCK meanwhile, also if it is root's.
class WithoutTheRightToLock {
 public:
  WithoutTheRightToLock() {
    syscall(SYS_capget, &header_, before_.data());
    std::array<__user_cap_data_struct, 2> fewer = before_;
    fewer[0].effective &= ~(1U << CAP_IPC_LOCK);
    EXPECT_EQ(syscall(SYS_capset, &header_, fewer.data()), 0);
  }
  ~WithoutTheRightToLock() { EXPECT_EQ(syscall(SYS_capset, &header_, before_.data()), 0); }
  WithoutTheRightToLock(const WithoutTheRightToLock&) = delete;
  WithoutTheRightToLock& operator=(const WithoutTheRightToLock&) = delete;

 private:
  __user_cap_header_struct header_{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> before_{};
};

class ShortageTest : public MemoryTest {
 protected:
  uint64_t Begins() { return mmu().Stats().notifier.begins; }

  // A fork whose child has a page of guest RAM, and ends at once; true when there was one.
  static bool Fork() {
    const pid_t child = _Fork();
    if (child == 0) bare::Exit();
    return child > 0 && waitpid(child, nullptr, 0) == child;
  }

  void ShareAPageWithChildren() {
    ASSERT_EQ(madvise(PointerOf(side().PageAt(0)), kPageSize, MADV_DOFORK), 0);
  }
};

TEST(ErrnoStatusTest, ALimitThatWasMetHasItsOwnRemedyAndNoOther) {
  const Limit few(RLIMIT_NOFILE, 28);
  const absl::Status lacking = ErrnoStatus(EMFILE, "open of x", "use another kernel");
  EXPECT_TRUE(absl::IsResourceExhausted(lacking));
  EXPECT_EQ(lacking.message(), "open of x: Too many open files; raise `ulimit -n`, which is 28");
  EXPECT_EQ(ErrnoStatus(ENOENT, "open of x", "use another kernel").message(),
            "open of x; use another kernel: No such file or directory");
  EXPECT_EQ(ErrnoStatus(ENOENT, "open of x").message(), "open of x: No such file or directory");
  const Limit shorter(RLIMIT_FSIZE, uint64_t{1} << 30);
  EXPECT_EQ(ErrnoStatus(EFBIG, "write of x", "free room there").message(),
            "write of x: File too large; raise `ulimit -f`, which allows 1073741824 bytes");
  EXPECT_NE(ErrnoText(ENFILE).find("fs.file-max"), std::string::npos);
}

TEST(ErrnoStatusTest, AUserfaultfdThatCannotBeOpenedForWantOfADescriptorBlamesNoKernel) {
  UNDERFOOT_NEEDS_NO_DESCRIPTOR();
  absl::Status lacking;
  {
    const Limit none(RLIMIT_NOFILE, 0);
    lacking = Userfaultfd::Open({.events = UffdEvents::kNone}).status();
  }
  EXPECT_EQ(lacking.message(), "userfaultfd: Too many open files; raise `ulimit -n`, which is 0");
}

TEST(StartThreadTest, AThreadThatCannotBeStartedIsAStatusAndTheNextOneStarts) {
  std::thread thread;
  {
    const NoRoomForThreads no_room;
    const absl::Status started = StartThread(thread, "a test", [] {});
    EXPECT_TRUE(absl::IsResourceExhausted(started)) << started;
    EXPECT_NE(std::string(started.message()).find("no thread for a test"), std::string::npos);
    EXPECT_FALSE(thread.joinable());
  }
  ASSERT_TRUE(StartThread(thread, "a test", [] {}).ok());
  thread.join();
}

TEST_P(ShortageTest, WithoutRoomForThreadsEachStartFailsWithTheReasonAndCanBeRepeated) {
  KernelNotifier kernel(mmu(), side().own_changes, side().memory->hvas(),
                        [] { return absl::UnavailableError("a test"); });
  Auditor auditor(mmu(), side().pagemap,
                  {.removals = side().removals,
                   .monitor = side().monitor,
                   .kernel = &kernel,
                   .backing = GetParam(),
                   .lazy = &side().lazy},
                  {side().GfnAt(0), side().GfnAt(4)}, 1);
  WorkingSet working_set(*side().memory, mmu().notifier(), side().pagemap, absl::Milliseconds(1));
  {
    const NoRoomForThreads no_room;
    EXPECT_TRUE(absl::IsResourceExhausted(side().monitor.Start()));
    EXPECT_TRUE(absl::IsResourceExhausted(kernel.Start()));
    EXPECT_TRUE(absl::IsResourceExhausted(kernel.WaitUntilOpen()));
    EXPECT_TRUE(absl::IsResourceExhausted(auditor.Start()));
    EXPECT_TRUE(absl::IsResourceExhausted(working_set.Start()));
  }
  StartMonitor();
  EXPECT_TRUE(kernel.Start().ok());
  EXPECT_TRUE(auditor.Start().ok());
  EXPECT_TRUE(working_set.Start().ok());
  side().Store(1, 7);
  EXPECT_EQ(side().Load(1), 7u);
  working_set.Stop();
  auditor.Stop();
}

// The process has used up its descriptors; the one in reserve is enough for the event.
TEST_P(ShortageTest, AForkEventIsReadByTheDescriptorInReserve) {
  UNDERFOOT_NEEDS_NO_DESCRIPTOR();
  if (!HasCapability(CAP_SYS_PTRACE)) UNDERFOOT_SKIP("fork events need CAP_SYS_PTRACE");
  StartMonitor();
  ShareAPageWithChildren();
  const Limit few(RLIMIT_NOFILE, 256);
  std::vector<UniqueFd> all;
  for (;;) {
    UniqueFd fd(eventfd(0, EFD_CLOEXEC));
    if (!fd.valid()) break;
    all.push_back(std::move(fd));
  }
  for (uint64_t round = 1; round <= 3; ++round) {
    std::atomic<bool> forked{false};
    std::thread forker([&] { forked = Fork(); });
    EXPECT_TRUE(WaitUntil([&] { return forked.load(); }, kPatience));
    if (!forked.load()) all.clear();  // let it go, so that the test ends
    forker.join();
    side().Store(round, round);
    EXPECT_EQ(side().Load(round), round);
  }
  EXPECT_EQ(side().monitor.Stats().fork_waits, 0u);
  EXPECT_EQ(side().monitor.Stats().forks, 3u);
}

// Not even the reserve may be used. No fault is resolved meanwhile, since the kernel resolves none
// while the event is not read; afterwards all are.
TEST_P(ShortageTest, AForkEventWithoutADescriptorWaitsIsCountedAndEndsNothing) {
  UNDERFOOT_NEEDS_NO_DESCRIPTOR();
  if (!HasCapability(CAP_SYS_PTRACE)) UNDERFOOT_SKIP("fork events need CAP_SYS_PTRACE");
  StartMonitor();
  ShareAPageWithChildren();
  std::optional<Limit> none;
  std::atomic<bool> forked{false};
  std::thread forker;
  std::thread toucher;
  none.emplace(RLIMIT_NOFILE, 0);
  forker = std::thread([&] { forked = Fork(); });
  EXPECT_TRUE(WaitUntil([&] { return side().monitor.Stats().fork_waits == 1; }, kPatience));
  EXPECT_FALSE(forked.load());
  toucher = std::thread([&] { side().Store(5, 5); });
  EXPECT_TRUE(WaitUntil([&] {
    return side().monitor.Stats().missing + side().monitor.Stats().minor > 0;
  })) << "faults are still read";
  none.reset();
  forker.join();
  toucher.join();
  EXPECT_TRUE(forked.load());
  EXPECT_EQ(side().Load(5), 5u);
  EXPECT_EQ(side().monitor.Stats().forks, 1u);
  EXPECT_EQ(side().monitor.Stats().fork_waits, 1u);
}

TEST_P(ShortageTest, AMappingThatMayNotBeLockedIsTriedOnce) {
  StartMonitor();
  FaultIn(5);
  const uint64_t before = Begins();
  absl::Status mapped;
  {
    const Limit one_page(RLIMIT_MEMLOCK, kPageSize);
    const WithoutTheRightToLock less;
    const int flags = memfd() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
    mapped = HookedMapOver(side().Pages(4, 4), PROT_READ | PROT_WRITE, flags | MAP_LOCKED,
                           side().memory->fd(), side().GpaAt(4).value);
  }
  EXPECT_TRUE(absl::IsUnavailable(mapped)) << mapped;
  EXPECT_EQ(Begins(), before + 1);
}

// The room for the pages needs a userfaultfd of its own. Nothing has moved when it cannot be had.
TEST_P(ShortageTest, PagesThatCannotMoveForWantOfADescriptorStayAndMoveLater) {
  UNDERFOOT_NEEDS_NO_DESCRIPTOR();
  StartMonitor();
  side().Store(0, 7);
  Relocation churn(mmu().notifier(), side().hooks, side().uffd, side().source);
  {
    const Limit none(RLIMIT_NOFILE, 0);
    const absl::StatusOr<ChurnOutcome> outcome = churn.Move(side().Pages(0));
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_EQ(*outcome, ChurnOutcome::kDeclined);
  }
  const absl::StatusOr<ChurnOutcome> later = churn.Move(side().Pages(0));
  EXPECT_TRUE(later.ok()) << later.status();
  EXPECT_EQ(side().Load(0), 7u);
}

UNDERFOOT_FOR_BOTH_BACKINGS(ShortageTest);

// A page of the block is pinned: by io_uring, by VFIO, here by a pipe.
TEST(PinnedPageTest, ABlockWithAPinnedPageIsNotCollapsedAndIsTriedOnce) {
  constexpr uint64_t kBlock = uint64_t{2} << 20;
  struct Plain final : PageSource {
    PageInResult PageIn(Hva page, Access, FaultContext*) override {
      return {PageInOutcome::kPresent, {page.value >> kPageShift}, Access::kWrite};
    }
  } source;
  Mmu mmu(source);
  absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone});
  if (!uffd.ok()) UNDERFOOT_SKIP(std::string(uffd.status().message()));
  ExpectedEvents expected;
  MmHooks hooks(mmu.notifier(), *uffd, expected);
  void* const room =
      mmap(nullptr, 2 * kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(room, MAP_FAILED);
  const Hva begin{(HvaOf(room).value + kBlock - 1) / kBlock * kBlock};
  const HvaRange block{begin, begin + kBlock};
  ASSERT_EQ(madvise(PointerOf(begin), kBlock, MADV_NOHUGEPAGE), 0);
  for (Hva page = block.begin; page < block.end; page += kPageSize) {
    *static_cast<volatile char*>(PointerOf(page)) = 1;
  }
  static_cast<void>(madvise(PointerOf(begin), kBlock, MADV_HUGEPAGE));
  ASSERT_TRUE(hooks.Attach(block, Backing::kAnon).ok());
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd out(ends[0]);
  const UniqueFd in(ends[1]);
  const iovec pinned{PointerOf(begin + 2 * kPageSize), kPageSize};
  ASSERT_EQ(vmsplice(in.get(), &pinned, 1, 0), static_cast<ssize_t>(kPageSize));
  const bool busy =
      syscall(SYS_madvise, begin.value, kBlock, newer::kMadvCollapse) != 0 && errno == EAGAIN;
  const uint64_t before = mmu.notifier().Stats().begins;
  const absl::Status collapsed = hooked::Madvise(block, newer::kMadvCollapse);
  EXPECT_EQ(mmu.notifier().Stats().begins, before + 1);
  if (busy) {
    EXPECT_TRUE(absl::IsUnavailable(collapsed)) << collapsed;
  }
  munmap(room, 2 * kBlock);
  if (!busy) GTEST_SKIP() << "this kernel does not answer EAGAIN for a pinned page";
}

}  // namespace
}  // namespace underfoot::testing
