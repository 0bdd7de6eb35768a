#include "tests/unit/fake_host.h"

#include <sys/mman.h>

#include "tests/support/block_memory.h"

namespace underfoot::testing {
FakeHost::FakeHost(uint64_t pages) : base_(MapBlockMemory(pages * kPageSize)), generations_(pages) {
  for (auto& generation : generations_) generation = 1;
}

FakeHost::~FakeHost() { ::munmap(PointerOf(base_), generations_.size() * kPageSize); }

PageInResult FakeHost::PageIn(Hva page, Access access, FaultContext*) {
  ++page_ins_;
  if (answer_) {
    if (const auto answer = answer_(page, access)) return *answer;
  }
  if (!range().Contains(page)) return {};
  return {PageInOutcome::kPresent, PfnOf(page), frugal_ ? access : Access::kWrite};
}

void FakeHost::Move(HvaRange moved) {
  for (Hva page = PageOf(moved.begin); page < moved.end; page += kPageSize) {
    ++generations_[IndexOf(page)];
  }
}

Pfn FakeHost::PfnOf(Hva page) const {
  const uint64_t index = IndexOf(page);
  return {uint64_t{generations_[index]} << kIndexBitsOfPfn | index};
}

}  // namespace underfoot::testing
