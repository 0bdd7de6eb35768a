// The VMM's side of the guest's shared page: a device with two rings that accesses the page only
// through a pfn cache.
//
// It produces requests and consumes answers as fast as the guest keeps up. A lost or stale update
// in either direction appears as a wrong sequence or payload, which this class or the guest counts.
//
// Thread safety: Start and Stop belong to the owner. The counters may be read by any thread.

#ifndef UNDERFOOT_VMM_DEVICES_RING_PEER_H_
#define UNDERFOOT_VMM_DEVICES_RING_PEER_H_

#include <atomic>
#include <cstdint>
#include <thread>

#include "absl/status/status.h"
#include "guest/abi.h"
#include "mmu/base/stats.h"
#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"

namespace underfoot {

class RingPeer {
 public:
  RingPeer(Mmu& mmu, Gpa shared_page, uint64_t seed);
  ~RingPeer();
  RingPeer(const RingPeer&) = delete;
  RingPeer& operator=(const RingPeer&) = delete;

  [[nodiscard]] absl::Status Start();
  void Stop();

  uint64_t produced() const { return produced_.Get(); }
  uint64_t answered() const { return answered_.Get(); }
  uint64_t mismatches() const { return mismatches_.Get(); }

 private:
  enum class [[nodiscard]] Progress : uint8_t{kSome, kNone, kNever};

  void Main();
  Progress Visit(Reader& reader);
  // Processes both rings. Returns false if there was nothing to do.
  bool Serve(abi::SharedPage& page);
  bool Produce(abi::Ring& ring);
  bool Consume(abi::Ring& ring);

  Mmu& mmu_;
  const Gpa shared_page_;
  const uint64_t seed_;
  PfnCache cache_;
  std::thread thread_;
  std::atomic<bool> stop_{false};
  Counter produced_;
  Counter answered_;
  Counter mismatches_;
};

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_DEVICES_RING_PEER_H_
