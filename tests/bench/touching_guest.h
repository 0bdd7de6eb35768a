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
  static constexpr unsigned kMostVcpus = 2;

  struct Options {
    unsigned vcpus = 1;
    // From one page to the next, in pages, wrapping around within the part of a vCPU. Odd; the part
    // must be a power of two then. 1: in turn.
    uint64_t stride = 1;
    // Whether WriteNs is wanted: each vCPU has room for the times of 16384 pages.
    bool keep_times = true;
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

  // Returns when every page has been written to.
  void TouchAll();
  // How long each write of the last TouchAll took, in nanoseconds, by the guest's time stamp counter.
  std::vector<double> WriteNs() const;
  Vm& vm() { return vm_; }

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
  std::vector<Vcpu> vcpus_;
  std::array<VcpuThread, kMostVcpus> threads_;  // of the vCPUs but the first
  std::atomic<bool> stop_{false};
  double ns_per_tick_ = 0;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_
