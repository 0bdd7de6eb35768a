// A guest that writes to each page of a memslot once, in ring 3, in turn or in a scattered order. It
// measures how fast first accesses are for a guest. No handler of ours runs here: the caller decides
// what backs the slot. With several vCPUs each of them has a part of the pages, and a thread.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_
#define UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <semaphore>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/base/types.h"
#include "tests/bench/anonymous_memory.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

namespace underfoot::bench {

class TouchingGuest {
 public:
  static constexpr unsigned kMostVcpus = 4;

  struct Options {
    unsigned vcpus = 1;
    // From one page to the next, in pages, wrapping around within the part of a vCPU. Odd; the part
    // must be a power of two then. 1: in turn.
    uint64_t stride = 1;
    // Whether WriteNs is wanted: each vCPU has room for the times of 16384 pages.
    bool keep_times = true;
    bool pin =
        false;  // as --pin-vcpus. The caller's thread runs vCPU 0, and it pins itself: CpusOf(0)
  };
  // `memory`: what it touches.
  static absl::StatusOr<std::unique_ptr<TouchingGuest>> Create(HvaRange memory,
                                                               const Options& options);
  static absl::StatusOr<std::unique_ptr<TouchingGuest>> Create(HvaRange memory) {
    return Create(memory, {});
  }
  ~TouchingGuest();
  TouchingGuest(const TouchingGuest&) = delete;
  TouchingGuest& operator=(const TouchingGuest&) = delete;

  // Where a vCPU may run.
  std::vector<int> CpusOf(unsigned vcpu) const;
  // Returns when every page has been written to.
  void TouchAll();
  // How long each write of the last TouchAll took, in nanoseconds, by the guest's time stamp counter.
  std::vector<double> WriteNs() const;

  // Some pages of an interval [first, first + pages), in the order of the stride. There is one vCPU;
  // `pages` is a power of two.
  struct Some {
    uint64_t first = 0;
    uint64_t pages = 0;
    uint64_t touched = 0;
    Access access = Access::kWrite;
  };
  void Touch(const Some& some);
  // The guest's own record of the last Touch: the pages for which it has noted a time.
  std::vector<uint64_t> Touched(const Some& some) const;

  Vm& vm() { return vm_; }
  // From now on KVM logs which pages were written; the other function takes what was written since:
  // one bit a page.
  absl::Status LogWrites();
  absl::StatusOr<std::vector<uint64_t>> TakeWritten();
  // The only vCPU, for another thread that runs it: it touches all pages again and again, with an
  // exit after each time. TouchAll must not be called any more.
  Vcpu TakeVcpu() { return std::move(vcpus_.front()); }

 private:
  static constexpr uint64_t kSystemPages = 4096;

  TouchingGuest(Kvm kvm, Vm vm, uint64_t pages, const Options& options)
      : kvm_(std::move(kvm)), vm_(std::move(vm)), pages_(pages), options_(options) {}
  absl::Status Load(HvaRange memory);
  absl::Status AddVcpu(unsigned index);
  uint64_t PagesOfVcpu() const { return pages_ / options_.vcpus; }
  static Gpa TimesOf(unsigned vcpu);
  void Run(unsigned vcpu);
  void Serve(unsigned vcpu);

  // A vCPU stays with its thread: KVM waits for a grace period when it changes.
  struct VcpuThread {
    std::binary_semaphore go{0};
    std::binary_semaphore done{0};
    std::thread thread;
  };

  AnonymousMemory system_{kSystemPages};  // code, page tables, descriptors, times
  Kvm kvm_;
  Vm vm_;
  const uint64_t pages_;
  const Options options_;
  HvaRange memory_ = {};  // what it touches
  std::vector<Vcpu> vcpus_;
  std::array<VcpuThread, kMostVcpus> threads_;  // of the vCPUs but the first
  std::atomic<bool> stop_{false};
  double ns_per_tick_ = 0;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_
