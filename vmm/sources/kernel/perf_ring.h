// The ring buffer that perf_event_open shares with user space: records by their order in it, from
// one CPU.
//
//   data_tail (ours) ──► records ──► data_head (the kernel's), modulo the size of the data
//
// Thread safety: one thread reads; the kernel writes meanwhile.
// After: perf_event_open(2).

#ifndef UNDERFOOT_VMM_SOURCES_KERNEL_PERF_RING_H_
#define UNDERFOOT_VMM_SOURCES_KERNEL_PERF_RING_H_

#include <linux/perf_event.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "mmu/base/ordering.h"

namespace underfoot {

// PERF_RECORD_SAMPLE of an event with kPerfSampleType.
inline constexpr uint64_t kPerfSampleType =
    PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_CPU | PERF_SAMPLE_RAW;
struct PerfSample {
  uint64_t id = 0;  // PERF_EVENT_IOC_ID of the event
  int32_t tid = 0;
  int64_t time_ns = 0;
  std::span<const std::byte> raw;
};
// nullopt: the body is too short for what it says it has.
std::optional<PerfSample> ParsePerfSample(std::span<const std::byte> body);
// How many records a PERF_RECORD_LOST reports as lost.
std::optional<uint64_t> ParsePerfLost(std::span<const std::byte> body);

class PerfRing {
 public:
  // A mapping of `fd`; `data_pages` is a power of two.
  static absl::StatusOr<PerfRing> Map(int fd, size_t data_pages);
  // Over memory of the caller's.
  PerfRing(perf_event_mmap_page* page, std::span<std::byte> data) : page_(page), data_(data) {}
  ~PerfRing();
  PerfRing(PerfRing&& other) noexcept;
  PerfRing& operator=(PerfRing&&) = delete;

  bool empty() const { return Head() == page_->data_tail; }

  // Calls `visit(type, body)` for each record that the ring contains at the time of the call.
  // `body` is valid until `visit` returns. Returns false if the content cannot be read as records;
  // the rest is then skipped.
  template <class Visitor>
  [[nodiscard]] bool Drain(const Visitor& visit);

  // So full that the kernel may have had to drop a record. It reports a loss only by its next
  // record, which may never come.
  bool NearlyFull() const { return Head() - page_->data_tail + kLargestRecord > data_.size(); }

 private:
  static constexpr uint64_t kLargestRecord = 256;

  // Acquire: the records up to it are written.
  uint64_t Head() const { return std::atomic_ref<__u64>(page_->data_head).load(kAcquire); }
  std::span<const std::byte> At(uint64_t position, uint64_t size);

  perf_event_mmap_page* page_;
  std::span<std::byte> data_;
  size_t mapped_bytes_ = 0;           // 0: not our mapping
  std::vector<std::byte> unwrapped_;  // a record that goes on at the ring's begin
};

template <class Visitor>
bool PerfRing::Drain(const Visitor& visit) {
  const uint64_t head = Head();
  uint64_t tail = page_->data_tail;
  bool sane = head - tail <= data_.size();
  while (sane && tail != head) {
    perf_event_header header{};
    sane = head - tail >= sizeof(header);
    if (!sane) break;
    std::memcpy(&header, At(tail, sizeof(header)).data(), sizeof(header));
    sane = header.size >= sizeof(header) && header.size <= head - tail;
    if (!sane) break;
    visit(header.type, At(tail, header.size).subspan(sizeof(header)));
    tail += header.size;
  }
  // Release: the kernel may write over what was read.
  std::atomic_ref<__u64>(page_->data_tail).store(head, kRelease);
  return sane;
}

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_SOURCES_KERNEL_PERF_RING_H_
