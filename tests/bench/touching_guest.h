// A guest of 25 bytes that writes to each page of a memslot in turn, in ring 3: how fast first
// touches are, as a guest sees them. No monitor of ours runs here: what backs the slot is the
// caller's.
//
// Thread safety: one thread.

#ifndef UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_
#define UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mmu/types.h"
#include "tests/bench/anonymous_memory.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"

namespace underfoot::bench {

class TouchingGuest {
 public:
  // `memory`: what it touches.
  static absl::StatusOr<std::unique_ptr<TouchingGuest>> Create(HvaRange memory);
  TouchingGuest(const TouchingGuest&) = delete;
  TouchingGuest& operator=(const TouchingGuest&) = delete;

  // Returns when every page has been written to.
  void TouchAll();

 private:
  static constexpr uint64_t kSystemPages = 4096;

  TouchingGuest(Kvm kvm, Vm vm, Vcpu vcpu)
      : kvm_(std::move(kvm)), vm_(std::move(vm)), vcpu_(std::move(vcpu)) {}
  absl::Status Load(HvaRange memory);

  AnonymousMemory system_{kSystemPages};  // code, page tables, descriptors
  Kvm kvm_;
  Vm vm_;
  Vcpu vcpu_;
};

}  // namespace underfoot::bench

#endif  // UNDERFOOT_TESTS_BENCH_TOUCHING_GUEST_H_
