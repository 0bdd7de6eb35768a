#include "guest/pages.h"

namespace underfoot::guest {
namespace {

uint64_t MaxChunks(const abi::BootInfo& boot) {
  const uint64_t end = boot.keep_visits != 0 ? abi::kVisitsGpa : abi::kSystemAreaBytes;
  return (end - abi::kHeapGpa) / (kChunkPages * sizeof(uint32_t));
}

uint64_t ChunksIn(uint64_t bytes) { return (bytes / kPageBytes + kChunkPages - 1) / kChunkPages; }

}  // namespace

bool Pages::Init(const abi::BootInfo& boot) {
  if (boot.range_count > abi::kMaxRanges) return false;
  vcpus_ = boot.vcpus;
  workload_ = boot.workload;
  uint64_t pages = 0;
  for (uint64_t i = 0; i < boot.range_count; ++i) {
    const abi::DataRange& range = boot.ranges[i];
    if (range.gpa < abi::kSystemAreaBytes || (range.gpa | range.bytes) % kPageBytes != 0 ||
        range.bytes == 0 || range.gpa + range.bytes > boot.memory_bytes) {
      return false;
    }
    if (range.kind == abi::RangeKind::kShared) {
      if (shared_page_ != 0) continue;
      shared_page_ = range.gpa;
      shared_end_ = range.gpa + range.bytes;
      continue;
    }
    spans_[span_count_++] = {.first_chunk = total_,
                             .gpa = range.gpa,
                             .bytes = range.bytes,
                             .discardable = range.kind == abi::RangeKind::kDiscardable};
    total_ += ChunksIn(range.bytes);
    pages += range.bytes / kPageBytes;
  }
  const uint64_t data_pages = (boot.memory_bytes - abi::kSystemAreaBytes) / kPageBytes;
  if (boot.keep_visits != 0 && data_pages > abi::kMaxVisits) return false;
  const uint64_t most = MaxChunks(boot);
  used_ = total_ < most ? total_ : most;
  if (boot.max_pages != 0 && ChunksIn(boot.max_pages * kPageBytes) < used_) {
    used_ = ChunksIn(boot.max_pages * kPageBytes);
  }
  if (used_ == total_) return true;
  uint64_t worked_on = 0;
  for (uint64_t j = 0; j < used_; ++j) worked_on += At(j).pages;
  left_out_ = pages - worked_on;
  return true;
}

Chunk Pages::At(uint64_t j) const {
  const uint64_t chunk = used_ == total_ ? j : j * total_ / used_;
  const Span* span = spans_;
  while (span + 1 < spans_ + span_count_ && span[1].first_chunk <= chunk) ++span;
  const uint64_t offset = (chunk - span->first_chunk) * kChunkPages * kPageBytes;
  const uint64_t left = (span->bytes - offset) / kPageBytes;
  return {.gpa = span->gpa + offset,
          .pages = left < kChunkPages ? left : kChunkPages,
          .discardable = span->discardable,
          .notes = reinterpret_cast<uint32_t*>(abi::kHeapGpa) + j * kChunkPages};
}

uint64_t Pages::smp_chunks() const {
  if (workload_ == abi::Workload::kSmp) return used_;
  return workload_ == abi::Workload::kMixed ? used_ / 4 : 0;
}

Chunk Pages::smp_chunk(uint64_t m) const {
  return At(workload_ == abi::Workload::kMixed ? m * 4 + 3 : m);
}

uint64_t Pages::stamp_chunks(uint64_t vcpu) const {
  if (workload_ != abi::Workload::kStamp && workload_ != abi::Workload::kMixed) return 0;
  const uint64_t all = used_ - smp_chunks();
  return all > vcpu ? (all - vcpu - 1) / vcpus_ + 1 : 0;
}

Chunk Pages::stamp_chunk(uint64_t vcpu, uint64_t k) const {
  const uint64_t s = k * vcpus_ + vcpu;
  return At(workload_ == abi::Workload::kMixed ? s / 3 * 4 + s % 3 : s);
}

}  // namespace underfoot::guest
