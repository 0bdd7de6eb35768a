// The VMM's side of the shared page's rings, as plain as it can be: produces requests and checks
// the answers.
//
// Thread safety: one thread steps it.

#ifndef UNDERFOOT_TESTS_SUPPORT_RING_PEER_H_
#define UNDERFOOT_TESTS_SUPPORT_RING_PEER_H_

#include <cstdint>

#include "guest/abi.h"

namespace underfoot::testing {

class RingPeer {
 public:
  RingPeer(abi::SharedPage& page, uint64_t seed) : page_(page), seed_(seed) {}

  // Produces what there is room for and takes what answers there are; true if there was anything.
  bool Step();
  // Takes answers only.
  bool Drain();

  uint64_t produced() const { return produced_; }
  uint64_t answered() const { return answered_; }
  uint64_t errors() const { return errors_; }  // lost, stale or wrong answers

  // For negative controls: the next record gets this sequence or payload instead of its own.
  void SpoilNextSequence(uint64_t difference) { sequence_spoil_ = difference; }
  void SpoilNextPayload(uint64_t difference) { payload_spoil_ = difference; }

 private:
  bool Produce();

  abi::SharedPage& page_;
  const uint64_t seed_;
  uint64_t produced_ = 0;
  uint64_t answered_ = 0;
  uint64_t errors_ = 0;
  uint64_t sequence_spoil_ = 0;
  uint64_t payload_spoil_ = 0;
};

}  // namespace underfoot::testing

#endif  // UNDERFOOT_TESTS_SUPPORT_RING_PEER_H_
