// A perf ring made by hand: what the reader takes from it, and what it refuses.

#include "vmm/sources/kernel/perf_ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

namespace underfoot {
namespace {

using Bytes = std::vector<std::byte>;

template <class T>
void Append(Bytes& bytes, const T& value) {
  const auto* const begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(value));
}

Bytes Record(uint32_t type, Bytes body) {
  body.resize((body.size() + 7) / 8 * 8);
  Bytes record;
  Append(record, perf_event_header{type, 0,
                                   static_cast<uint16_t>(sizeof(perf_event_header) + body.size())});
  record.insert(record.end(), body.begin(), body.end());
  return record;
}

// With kPerfSampleType.
Bytes Sample(uint64_t id, int32_t tid, int64_t time_ns, uint64_t raw) {
  Bytes body;
  Append(body, id);
  Append(body, int32_t{77});
  Append(body, tid);
  Append(body, time_ns);
  Append(body, uint64_t{3});  // the CPU
  Append(body, uint32_t{sizeof(raw)});
  Append(body, raw);
  return Record(PERF_RECORD_SAMPLE, body);
}

Bytes Lost(uint64_t count) {
  Bytes body;
  Append(body, uint64_t{5});
  Append(body, count);
  return Record(PERF_RECORD_LOST, body);
}

class PerfRingTest : public ::testing::Test {
 protected:
  static constexpr size_t kBytes = 1024;

  // As the kernel does: the bytes, then the head.
  void Put(const Bytes& record) {
    for (const std::byte b : record) data_[page_->data_head++ % kBytes] = b;
  }
  struct Seen {
    uint32_t type = 0;
    Bytes body;
  };
  bool Drain() {
    return ring_.Drain([&](uint32_t type, std::span<const std::byte> body) {
      seen_.push_back({type, Bytes(body.begin(), body.end())});
    });
  }

  std::unique_ptr<perf_event_mmap_page> page_ = std::make_unique<perf_event_mmap_page>();
  std::array<std::byte, kBytes> data_{};
  PerfRing ring_{page_.get(), data_};
  std::vector<Seen> seen_;
};

TEST_F(PerfRingTest, RecordsComeInTheirOrderAndOnce) {
  Put(Sample(5, 42, 1000, 0xabc));
  Put(Lost(9));
  EXPECT_FALSE(ring_.empty());
  ASSERT_TRUE(Drain());
  ASSERT_EQ(seen_.size(), 2);
  const std::optional<PerfSample> sample = ParsePerfSample(seen_[0].body);
  ASSERT_TRUE(sample.has_value());
  EXPECT_EQ(sample->id, 5);
  EXPECT_EQ(sample->tid, 42);
  EXPECT_EQ(sample->time_ns, 1000);
  ASSERT_EQ(sample->raw.size(), 8);
  EXPECT_EQ(sample->raw[1], std::byte{0x0a});
  EXPECT_EQ(seen_[1].type, static_cast<uint32_t>(PERF_RECORD_LOST));
  EXPECT_EQ(ParsePerfLost(seen_[1].body), 9);
  EXPECT_TRUE(ring_.empty());
  ASSERT_TRUE(Drain());
  EXPECT_EQ(seen_.size(), 2);
}

TEST_F(PerfRingTest, ARecordThatWrapsIsWhole) {
  constexpr int kRecords = 200;  // several times around
  for (int i = 0; i < kRecords; ++i) {
    Put(Sample(5, i, 1000 + i, 0));
    ASSERT_TRUE(Drain());
  }
  ASSERT_EQ(seen_.size(), kRecords);
  for (int i = 0; i < kRecords; ++i) {
    const std::optional<PerfSample> sample = ParsePerfSample(seen_[static_cast<size_t>(i)].body);
    ASSERT_TRUE(sample.has_value());
    EXPECT_EQ(sample->tid, i);
    EXPECT_EQ(sample->time_ns, 1000 + i);
  }
}

TEST_F(PerfRingTest, ANearlyFullRingIsNoticedBeforeTheLossIsReported) {
  EXPECT_FALSE(ring_.NearlyFull());
  while (page_->data_head + Lost(1).size() <= kBytes) Put(Lost(1));
  EXPECT_TRUE(ring_.NearlyFull());
  ASSERT_TRUE(Drain());
  EXPECT_FALSE(ring_.NearlyFull());
}

TEST_F(PerfRingTest, AnInvalidRecordIsSkippedAndReported) {
  for (const uint16_t size : {uint16_t{0}, uint16_t{4}, uint16_t{512}}) {
    Bytes record;
    Append(record, perf_event_header{PERF_RECORD_SAMPLE, 0, size});
    Put(record);
    EXPECT_FALSE(Drain()) << size;
    EXPECT_TRUE(ring_.empty());
  }
  page_->data_head += 2 * kBytes;
  EXPECT_FALSE(Drain());
  EXPECT_TRUE(ring_.empty());
  Put(Lost(1));
  EXPECT_TRUE(Drain());
  EXPECT_EQ(seen_.size(), 1);
}

TEST_F(PerfRingTest, AShortSampleIsNone) {
  const Bytes record = Sample(5, 42, 1000, 0xabc);
  const std::span<const std::byte> body = std::span(record).subspan(sizeof(perf_event_header));
  for (size_t size = 0; size < 44; ++size) {
    EXPECT_FALSE(ParsePerfSample(body.first(size)).has_value()) << size;
  }
  EXPECT_TRUE(ParsePerfSample(body).has_value());
  EXPECT_EQ(ParsePerfLost(body.first(15)), std::nullopt);
}

}  // namespace
}  // namespace underfoot
