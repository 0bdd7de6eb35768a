// What a call pays for being hooked when it touches no attached range: one comparison, beside the
// system call that it is.

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "mmu/base/check.h"
#include "tests/bench/anonymous_memory.h"
#include "tests/bench/bench.h"
#include "vmm/hooks/attachments.h"
#include "vmm/hooks/calls.h"

namespace underfoot::bench {
namespace {

constexpr uint64_t kCallsOfATurn = 512;

// Attached for as long as the object lives. Its callbacks do nothing.
class AttachedPage {
 public:
  AttachedPage() : memory_(1) {
    underfoot_range range{};
    range.start = PointerOf(memory_.range().begin);
    range.length = kPageSize;
    range.fd = -1;
    range.begin = [](void*, underfoot_change*) {};
    range.end = [](void*, underfoot_change*) {};
    const int error = hooks::Attach(range, &handle_);
    UNDERFOOT_CHECK(error == 0, "a benchmark's page cannot be attached", error, 0);
  }
  ~AttachedPage() { static_cast<void>(hooks::Detach(handle_)); }
  AttachedPage(const AttachedPage&) = delete;
  AttachedPage& operator=(const AttachedPage&) = delete;

  void* start() const { return PointerOf(memory_.range().begin); }

 private:
  AnonymousMemory memory_;
  uint64_t handle_ = 0;
};

// Every second page of a mapping is attached, as by a cache of registrations.
class ManyAttachedPages {
 public:
  static constexpr uint64_t kRanges = 4096;

  ManyAttachedPages() : memory_(2 * kRanges), handles_(kRanges) {
    for (uint64_t i = 0; i < kRanges; ++i) {
      underfoot_range range{};
      range.start = PointerOf(memory_.Pages(2 * i, 1).begin);
      range.length = kPageSize;
      range.fd = -1;
      range.begin = [](void*, underfoot_change*) {};
      range.end = [](void*, underfoot_change*) {};
      const int error = hooks::Attach(range, &handles_[i]);
      UNDERFOOT_CHECK(error == 0, "a benchmark's page cannot be attached", error, i);
    }
  }
  ~ManyAttachedPages() {
    for (const uint64_t handle : handles_) static_cast<void>(hooks::Detach(handle));
  }
  ManyAttachedPages(const ManyAttachedPages&) = delete;
  ManyAttachedPages& operator=(const ManyAttachedPages&) = delete;

  void* between() const { return PointerOf(memory_.Pages(kRanges + 1, 1).begin); }
  void* inside() const { return PointerOf(memory_.Pages(kRanges, 1).begin); }

 private:
  AnonymousMemory memory_;
  std::vector<uint64_t> handles_;
};

template <class Call>
Variant Calling(std::string name, Call call) {
  return {.name = std::move(name),
          .run =
              [call](Turn& turn) {
                turn.Time(kCallsOfATurn, [&] {
                  for (uint64_t i = 0; i < kCallsOfATurn; ++i) call();
                });
              },
          .goal = {}};
}

}  // namespace

// Of no pages: the kernel looks at its arguments and returns.
void BenchHookedCall(Bench& bench) {
  auto attached = std::make_shared<AttachedPage>();
  auto beside = std::make_shared<AnonymousMemory>(1);
  void* const outside = PointerOf(beside->range().begin);
  bench.Compare(
      {.name = "hooked_call.madvise_of_nothing",
       .what = "madvise of no bytes, with one range attached",
       .variants = {Calling("the system call",
                            [beside, outside] { syscall(SYS_madvise, outside, 0, MADV_DONTNEED); }),
                    Calling("hooked, outside of the range",
                            [beside, outside] { hooks::Madvise(outside, 0, MADV_DONTNEED); }),
                    Calling("hooked, inside: two callbacks that do nothing", [attached] {
                      hooks::Madvise(attached->start(), kPageSize, MADV_DONTNEED);
                    })}});
  auto many = std::make_shared<ManyAttachedPages>();
  bench.Compare(
      {.name = "hooked_call.among_4096_ranges",
       .what = "madvise of a page, with 4096 ranges attached around it",
       .variants = {
           Calling("the system call",
                   [many] { syscall(SYS_madvise, many->between(), kPageSize, MADV_DONTNEED); }),
           Calling("hooked, between two ranges",
                   [many] { hooks::Madvise(many->between(), kPageSize, MADV_DONTNEED); }),
           Calling("hooked, inside of one: two callbacks that do nothing",
                   [many] { hooks::Madvise(many->inside(), kPageSize, MADV_DONTNEED); })}});
}

}  // namespace underfoot::bench
