// As many ranges as there is room for.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <vector>

#include "tests/hooks/recorded_changes.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"

namespace underfoot::testing {
namespace {

TEST(ManyRangesTest, ThereIsRoomForSoManyAndThenAgain) {
  static int begins = 0;
  const RecordedChanges memory(1);
  underfoot_range range{};
  range.start = memory.At(0);
  range.length = kPageSize;
  range.fd = -1;
  range.begin = [](void*, underfoot_change*) { ++begins; };
  range.end = [](void*, underfoot_change*) {};
  std::vector<uint64_t> handles(UNDERFOOT_MAX_RANGES - 1);  // and `memory` itself
  for (uint64_t& handle : handles) ASSERT_EQ(hooks::Attach(range, &handle), 0);
  uint64_t one_more = 0;
  EXPECT_EQ(hooks::Attach(range, &one_more), ENOSPC);
  ASSERT_EQ(hooks::Madvise(memory.At(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(begins, UNDERFOOT_MAX_RANGES - 1);
  ASSERT_EQ(hooks::Detach(handles[77]), 0);
  ASSERT_EQ(hooks::Attach(range, &handles[77]), 0);
  for (const uint64_t handle : handles) ASSERT_EQ(hooks::Detach(handle), 0);
  EXPECT_EQ(hooks::Detach(handles[77]), ENOENT);
}

}  // namespace
}  // namespace underfoot::testing
