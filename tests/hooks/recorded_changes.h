// Memory of the test's own that is attached, and the changes of it that were reported.

#ifndef UNDERFOOT_TESTS_HOOKS_RECORDED_CHANGES_H_
#define UNDERFOOT_TESTS_HOOKS_RECORDED_CHANGES_H_

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "mmu/base/types.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/underfoot_hooks.h"

namespace underfoot::testing {

class RecordedChanges {
 public:
  // `fd`: mapped shared from `offset` on; -1: private and anonymous.
  explicit RecordedChanges(uint64_t pages, int fd = -1, uint64_t offset = 0,
                           hooks::MappingCalls mapping_calls = hooks::MappingCalls::kSideBySide) {
    void* const base =
        mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE,
             fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, static_cast<off_t>(offset));
    EXPECT_NE(base, MAP_FAILED);
    range_ = PageRangeOf(HvaOf(base), pages);
    underfoot_range attached{};
    attached.start = base;
    attached.length = range_.size();
    attached.fd = fd;
    attached.file_offset = offset;
    attached.context = this;
    attached.begin = [](void* context, underfoot_change* change) {
      static_cast<RecordedChanges*>(context)->OnBegin(*change);
    };
    attached.end = [](void* context, underfoot_change* change) {
      static_cast<RecordedChanges*>(context)->OnEnd(*change);
    };
    EXPECT_EQ(hooks::Attach(attached, &handle_, mapping_calls), 0);
  }
  ~RecordedChanges() {
    EXPECT_EQ(hooks::Detach(handle_), 0);
    EXPECT_EQ(open_, 0);
    munmap(PointerOf(range_.begin), range_.size());
  }
  RecordedChanges(const RecordedChanges&) = delete;
  RecordedChanges& operator=(const RecordedChanges&) = delete;

  HvaRange Pages(uint64_t first, uint64_t count = 1) const {
    return PageRangeOf(range_.begin + first * kPageSize, count);
  }
  void* At(uint64_t page) const { return PointerOf(range_.begin + page * kPageSize); }
  uint64_t& Word(uint64_t page) const { return *static_cast<uint64_t*>(At(page)); }

  static HvaRange RangeOf(const underfoot_change& change) {
    return {HvaOf(change.start), HvaOf(change.start) + change.length};
  }
  // In the order of their ends; emptied.
  std::vector<underfoot_change> Take() { return std::exchange(changes_, {}); }

  std::function<void(const underfoot_change&)> at_begin;
  std::function<void(const underfoot_change&)> at_end;

 private:
  void OnBegin(underfoot_change& change) {
    for (const uint64_t word : change.scratch) EXPECT_EQ(word, 0u);
    change.scratch[7] = ++open_;
    if (at_begin) at_begin(change);
  }
  void OnEnd(underfoot_change& change) {
    EXPECT_NE(change.scratch[7], 0u);
    --open_;
    if (at_end) at_end(change);
    changes_.push_back(change);
  }

  HvaRange range_;
  uint64_t handle_ = 0;
  uint64_t open_ = 0;
  std::vector<underfoot_change> changes_;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_HOOKS_RECORDED_CHANGES_H_
