// How much stack a hooked call needs: a signal handler may have a small one.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "mmu/base/types.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

constexpr size_t kLimit = 1024;

// The function that runs on the stack of its own.
void (*g_function)() = nullptr;
char* g_memory = nullptr;
void RunIt() { g_function(); }

// How deep `function` goes, on a stack that was painted before.
size_t StackOf(void (*function)()) {
  constexpr unsigned char kPaint = 0xa5;
  std::vector<unsigned char> stack(64 * kPageSize, kPaint);
  ucontext_t here;
  ucontext_t there;
  EXPECT_EQ(getcontext(&there), 0);
  there.uc_stack.ss_sp = stack.data();
  there.uc_stack.ss_size = stack.size();
  there.uc_link = &here;
  g_function = function;
  makecontext(&there, RunIt, 0);
  EXPECT_EQ(swapcontext(&here, &there), 0);
  const auto touched =
      std::find_if(stack.begin(), stack.end(), [](unsigned char byte) { return byte != kPaint; });
  return static_cast<size_t>(stack.end() - touched);
}

class StackTest : public ::testing::Test {
 protected:
  StackTest() {
    g_memory = static_cast<char*>(
        mmap(nullptr, 16 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (const uint64_t page : {uint64_t{0}, uint64_t{2}, uint64_t{15}}) {
      underfoot_range range{};
      range.start = g_memory + page * kPageSize;
      range.length = kPageSize;
      range.fd = -1;
      range.begin = [](void*, underfoot_change*) {};
      range.end = [](void*, underfoot_change*) {};
      EXPECT_EQ(hooks::Attach(range, &handles_.emplace_back()), 0);
    }
  }
  ~StackTest() override {
    for (const uint64_t handle : handles_) EXPECT_EQ(hooks::Detach(handle), 0);
    munmap(g_memory, 16 * kPageSize);
  }
  std::vector<uint64_t> handles_;
  // The first call also binds names and looks up mutants.
  static size_t WarmStackOf(void (*function)()) {
    StackOf(function);
    return StackOf(function);
  }
  const size_t bare_ = WarmStackOf([] { syscall(SYS_madvise, g_memory, 0, MADV_DONTNEED); });
};

TEST_F(StackTest, ACallBetweenTwoRangesNeedsNearlyNone) {
  EXPECT_LT(WarmStackOf([] { hooks::Munmap(g_memory + 8 * kPageSize, kPageSize); }) - bare_, 512u);
}

TEST_F(StackTest, ACallOverTwoRangesNeedsLessThanAKilobyte) {
  EXPECT_LT(WarmStackOf([] { hooks::Madvise(g_memory, 3 * kPageSize, MADV_DONTNEED); }) - bare_,
            kLimit);
  EXPECT_LT(WarmStackOf([] { hooks::Mprotect(g_memory, 3 * kPageSize, PROT_READ); }) - bare_,
            kLimit);
  EXPECT_LT(WarmStackOf([] { hooks::Madvise(g_memory, 3 * kPageSize, MADV_PAGEOUT); }) - bare_,
            kLimit);
  EXPECT_LT(WarmStackOf([] {
              hooks::Mremap(g_memory, kPageSize, kPageSize, MREMAP_MAYMOVE | MREMAP_FIXED,
                            g_memory + 8 * kPageSize);
              hooks::Mmap(g_memory, kPageSize, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
            }) - bare_,
            kLimit);
}

}  // namespace
}  // namespace underfoot::testing
