// The pages that the workloads use, in chunks of 64 adjacent pages, and the vCPU that owns each
// chunk.
//
// All vCPUs compute the same result from BootInfo. They share only the note of each page, a word in
// the guest's heap that describes the content which the page must have.
//
//   chunk j of the used ones:   stamp only: vCPU j % vcpus    smp only: all vCPUs
//   mixed:  0 1 2 (3) 4 5 6 (7) ...  those in brackets are smp's, the others go round the vCPUs

#ifndef UNDERFOOT_GUEST_PAGES_H_
#define UNDERFOOT_GUEST_PAGES_H_

#include <cstdint>

#include "guest/abi.h"

namespace underfoot::guest {

inline constexpr uint64_t kChunkPages = 64;
inline constexpr uint64_t kPageBytes = 4096;

struct Chunk {
  uint64_t gpa;    // gpa of its first page
  uint64_t pages;  // 64, or fewer at the end of a range
  bool discardable;
  uint32_t* notes;  // one for each page, zero at the start
};

class Pages {
 public:
  // Returns true only if BootInfo's ranges are valid.
  bool Init(const abi::BootInfo& boot);

  uint64_t stamp_chunks(uint64_t vcpu) const;          // owned by this vCPU
  Chunk stamp_chunk(uint64_t vcpu, uint64_t k) const;  // k < stamp_chunks(vcpu)
  uint64_t smp_chunks() const;
  Chunk smp_chunk(uint64_t m) const;  // m < smp_chunks()

  uint64_t shared_page() const { return shared_page_; }  // 0: there is none
  uint64_t shared_end() const { return shared_end_; }    // of the range that begins with it
  uint64_t left_out() const { return left_out_; }        // pages that no vCPU uses

 private:
  struct Span {
    uint64_t first_chunk;  // index among all chunks, in the order of the ranges
    uint64_t gpa;
    uint64_t bytes;
    bool discardable;
  };

  Chunk At(uint64_t j) const;

  Span spans_[abi::kMaxRanges];
  uint64_t span_count_ = 0;
  uint64_t total_ = 0;  // chunks of all ranges
  uint64_t used_ = 0;   // the chunks in use, evenly spread over all
  uint64_t vcpus_ = 1;
  uint64_t shared_page_ = 0;
  uint64_t shared_end_ = 0;
  uint64_t left_out_ = 0;
  abi::Workload workload_ = abi::Workload::kHello;
};

}  // namespace underfoot::guest

#endif  // UNDERFOOT_GUEST_PAGES_H_
