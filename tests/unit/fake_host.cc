#include "tests/unit/fake_host.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace underfoot::testing {
namespace {

// Aligned to 2 MiB, so that tests may map blocks.
constexpr uint64_t kBlockSize = uint64_t{2} << 20;

}  // namespace

FakeHost::FakeHost(uint64_t pages) : generations_(pages) {
  const uint64_t bytes = pages * kPageSize;
  void* memory = ::mmap(nullptr, bytes + kBlockSize, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("mmap of a test's pages");
    std::abort();
  }
  base_ = {(HvaOf(memory).value + kBlockSize - 1) & ~(kBlockSize - 1)};
  ::munmap(memory, base_ - HvaOf(memory));
  ::munmap(PointerOf(base_ + bytes), HvaOf(memory) + kBlockSize - base_);
  for (auto& generation : generations_) generation = 1;
}

FakeHost::~FakeHost() { ::munmap(PointerOf(base_), generations_.size() * kPageSize); }

PageInResult FakeHost::PageIn(Hva page, Access access) {
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
