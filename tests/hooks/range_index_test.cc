// The index of ranges, beside a plain list.

#include "vmm/hooks/range_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace underfoot::testing {
namespace {

using hooks::Interval;
using hooks::RangeIndex;

std::set<uint32_t> Found(RangeIndex& index, const Interval& wanted) {
  std::set<uint32_t> found;
  index.VisitOverlapping(wanted, [&found](uint32_t slot) {
    found.insert(slot);
    return true;
  });
  return found;
}

bool Overlap(const Interval& a, const Interval& b) { return a.begin < b.end && b.begin < a.end; }

TEST(RangeIndexTest, ItFindsWhatAPlainListFinds) {
  std::mt19937_64 random(7);
  auto index = std::make_unique<RangeIndex>();
  std::map<uint32_t, std::vector<Interval>> plain;
  const auto some = [&] {
    const uint64_t space = random() % 3;
    const uint64_t begin = random() % 1000;
    // A few long ones over many short ones.
    const uint64_t length = 1 + (random() % 16 == 0 ? random() % 1000 : random() % 8);
    return Interval{{space, begin}, {space, begin + length}};
  };
  for (int round = 0; round < 6000; ++round) {
    const auto slot = static_cast<uint32_t>(random() % 300);
    if (const auto found = plain.find(slot); found != plain.end()) {
      index->Remove(slot);
      plain.erase(found);
    } else {
      std::vector<RangeIndex::Entry> entries{{some(), slot}};
      if (random() % 2 == 0) entries.push_back({some(), slot});
      std::sort(entries.begin(), entries.end(),
                [](const auto& a, const auto& b) { return a.interval.begin < b.interval.begin; });
      index->Insert(entries);
      for (const auto& entry : entries) plain[slot].push_back(entry.interval);
    }
    const Interval wanted = some();
    std::set<uint32_t> expected;
    for (const auto& [one, intervals] : plain) {
      for (const Interval& interval : intervals) {
        if (Overlap(interval, wanted)) expected.insert(one);
      }
    }
    ASSERT_EQ(Found(*index, wanted), expected) << "round " << round;
  }
}

// One entry is always there; others come and go around it.
TEST(RangeIndexTest, AReaderFindsWhatStaysWhileOthersComeAndGo) {
  auto index = std::make_unique<RangeIndex>();
  const RangeIndex::Entry stays[] = {{{{0, 500}, {0, 501}}, 1}};
  index->Insert(stays);
  std::atomic<bool> stop{false};
  std::atomic<int> misses{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      do {
        if (!Found(*index, {{0, 400}, {0, 600}}).contains(1)) ++misses;
      } while (!stop);
    });
  }
  std::mt19937_64 random(11);
  std::set<uint32_t> there;
  for (int round = 0; round < 3000; ++round) {
    const auto slot = static_cast<uint32_t>(2 + random() % 100);
    if (there.erase(slot) != 0) {
      index->Remove(slot);
    } else {
      const uint64_t begin = random() % 1000;
      const RangeIndex::Entry entry[] = {{{{0, begin}, {0, begin + 1}}, slot}};
      index->Insert(entry);
      there.insert(slot);
    }
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(misses, 0);
}

}  // namespace
}  // namespace underfoot::testing
