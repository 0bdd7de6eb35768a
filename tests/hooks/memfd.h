// A file in memory for the mappings of a test.

#ifndef UNDERFOOT_TESTS_HOOKS_MEMFD_H_
#define UNDERFOOT_TESTS_HOOKS_MEMFD_H_

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "mmu/base/types.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {

inline UniqueFd Memfd(uint64_t pages) {
  UniqueFd fd(memfd_create("hooks-test", MFD_CLOEXEC));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(pages * kPageSize)), 0);
  return fd;
}

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_HOOKS_MEMFD_H_
