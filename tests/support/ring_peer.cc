#include "tests/support/ring_peer.h"

#include <atomic>
#include <utility>

#include "mmu/base/ordering.h"

namespace underfoot::testing {
namespace {

// Acquire and release pair with the guest's plain accesses, which x86 keeps in order.
uint64_t Acquire(uint64_t& word) { return std::atomic_ref<uint64_t>(word).load(kAcquire); }
void Release(uint64_t& word, uint64_t value) {
  std::atomic_ref<uint64_t>(word).store(value, kRelease);
}

}  // namespace

bool RingPeer::Step() {
  const bool produced = Produce();
  return Drain() || produced;
}

bool RingPeer::Produce() {
  abi::Ring& ring = page_.to_guest;
  const uint64_t end = Acquire(ring.tail) + abi::kRingRecords;
  if (produced_ >= end) return false;
  while (produced_ < end) {
    abi::RingRecord& record = ring.records[produced_ % abi::kRingRecords];
    const uint64_t sequence = produced_ + 1;
    Release(record.payload,
            abi::RequestPayload(seed_, sequence) + std::exchange(payload_spoil_, 0));
    Release(record.sequence, sequence + std::exchange(sequence_spoil_, 0));
    Release(ring.head, ++produced_);
  }
  return true;
}

bool RingPeer::Drain() {
  abi::Ring& ring = page_.to_vmm;
  const uint64_t end = Acquire(ring.head);
  const bool any = answered_ < end;
  for (; answered_ < end; ++answered_) {
    abi::RingRecord& record = ring.records[answered_ % abi::kRingRecords];
    const uint64_t sequence = answered_ + 1;
    const bool right =
        Acquire(record.sequence) == sequence &&
        Acquire(record.payload) == abi::AnswerPayload(abi::RequestPayload(seed_, sequence));
    if (!right) ++errors_;
    Release(ring.tail, sequence);
  }
  return any;
}

}  // namespace underfoot::testing
