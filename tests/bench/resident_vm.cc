#include "tests/bench/resident_vm.h"

#include <sys/mman.h>

#include <cerrno>

#include "mmu/base/check.h"

namespace underfoot::bench {

ResidentPages::ResidentPages(uint64_t pages) {
  void* memory = mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  UNDERFOOT_CHECK(memory != MAP_FAILED, "no memory for a benchmark", pages, errno);
  hvas_ = {HvaOf(memory), HvaOf(memory) + pages * kPageSize};
}

ResidentPages::~ResidentPages() { munmap(PointerOf(hvas_.begin), hvas_.size()); }

PageInResult ResidentPages::PageIn(Hva page, Access, FaultContext*) {
  return {PageInOutcome::kPresent, {page.value >> kPageShift}, Access::kWrite};
}

ResidentVm::ResidentVm(uint64_t pages) : pages_(pages), mmu_(pages_) {
  const absl::Status created =
      mmu_.CreateMemslot({.id = 0, .gfns = {{0}, {pages}}, .hva = pages_.hvas().begin});
  UNDERFOOT_CHECK(created.ok(), "a benchmark's memslot was refused", pages, created.raw_code());
}

}  // namespace underfoot::bench
