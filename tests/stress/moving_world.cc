#include "tests/stress/moving_world.h"

#include <array>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/unit/raw_table.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPoison = 0xdeadbeefdeadbeef;

// The compiler must not keep a word of guest memory in a register over a wait.
uint64_t ReadWord(const std::byte* data, unsigned index) {
  std::atomic_signal_fence(std::memory_order::seq_cst);
  uint64_t word;
  std::memcpy(&word, data + index * sizeof(word), sizeof(word));
  std::atomic_signal_fence(std::memory_order::seq_cst);
  return word;
}

void WriteWord(std::byte* data, unsigned index, uint64_t word) {
  std::atomic_signal_fence(std::memory_order::seq_cst);
  std::memcpy(data + index * sizeof(word), &word, sizeof(word));
  std::atomic_signal_fence(std::memory_order::seq_cst);
}

std::byte* BytesAt(Hva page) { return static_cast<std::byte*>(PointerOf(page)); }

}  // namespace

MovingWorld::MovingWorld(Squad& squad) : squad_(squad), host_(kPages), mmu_(host_) {
  for (uint64_t i = 0; i < kPages; ++i) {
    WriteWord(BytesAt(host_.PageAt(i)), 0, host_.PfnOf(host_.PageAt(i)).value);
  }
  const absl::Status created = mmu_.CreateMemslot(
      {.id = kSlot, .gfns = {kFirstGfn, kFirstGfn + kPages}, .hva = host_.range().begin});
  if (!created.ok()) Report(created.ToString());
}

HvaRange MovingWorld::RandomRange(Random& random) const {
  const uint64_t pages = random.Chance(1, 16) ? kPages : 1 + random.Below(8);
  return host_.Pages(random.Below(kPages - pages + 1), pages);
}

void MovingWorld::MoveSome(Random& random) {
  const HvaRange range = RandomRange(random);
  BracketToken token = mmu_.notifier().Begin({range, InvalidationKind::kUnmap});
  {
    std::lock_guard lock(host_mutex_);
    for (Hva page = range.begin; page < range.end; page += kPageSize) {
      std::byte* bytes = BytesAt(page);
      std::array<uint64_t, kWriters> words;
      for (unsigned i = 0; i < kWriters; ++i) words[i] = ReadWord(bytes, i + 1);
      for (unsigned i = 0; i <= kWriters; ++i) WriteWord(bytes, i, kPoison);
      host_.Move(PageRangeOf(page));
      if (random.Chance(1, 4)) std::this_thread::yield();
      WriteWord(bytes, 0, host_.PfnOf(page).value);
      for (unsigned i = 0; i < kWriters; ++i) WriteWord(bytes, i + 1, words[i]);
    }
  }
  if (random.Chance(1, 4)) std::this_thread::yield();
  mmu_.notifier().End(token);
  ++moves;
}

void MovingWorld::ProtectSome(Random& random) {
  const HvaRange range = RandomRange(random);
  BracketToken token = mmu_.notifier().Begin({range, InvalidationKind::kProtect});
  {
    std::lock_guard lock(host_mutex_);
    for (Hva page = range.begin; page < range.end; page += kPageSize) {
      std::array<uint64_t, kWriters> words;
      for (unsigned i = 0; i < kWriters; ++i) words[i] = ReadWord(BytesAt(page), i + 1);
      std::this_thread::yield();
      for (unsigned i = 0; i < kWriters; ++i) {
        if (ReadWord(BytesAt(page), i + 1) != words[i]) {
          Report(absl::StrFormat("hva 0x%x: written while write-protected", page.value));
        }
      }
    }
  }
  mmu_.notifier().End(token);
  ++protects;
}

uint64_t MovingWorld::IndexOf(const std::byte* data) const {
  return (HvaOf(data) - host_.range().begin) / kPageSize;
}

void MovingWorld::CheckPage(const std::byte* data, Pfn pfn) {
  const uint64_t word = ReadWord(data, 0);
  if (word != pfn.value) {
    Report(absl::StrFormat("page %u: the translation says frame 0x%x, the page 0x%x", IndexOf(data),
                           pfn.value, word));
  }
  CheckStays(data);
}

void MovingWorld::CheckStays(const std::byte* data) {
  const uint64_t before = ReadWord(data, 0);
  // Now and then long enough for an invalidation to come and go.
  if (checks.fetch_add(1, std::memory_order::relaxed) % 16 == 0) std::this_thread::yield();
  const uint64_t after = ReadWord(data, 0);
  if (before == kPoison || before != after) {
    Report(absl::StrFormat("page %u: 0x%x became 0x%x inside a section", IndexOf(data), before,
                           after));
  }
}

void MovingWorld::WriteAndCheck(std::byte* data, unsigned writer) {
  uint64_t& expected = written_[writer][IndexOf(data)];
  const uint64_t found = ReadWord(data, writer + 1);
  if (found != expected) {
    Report(absl::StrFormat("page %u: writer %u left %u and finds %u", IndexOf(data), writer,
                           expected, found));
  }
  if (checks.fetch_add(1, std::memory_order::relaxed) % 16 == 0) std::this_thread::yield();
  WriteWord(data, writer + 1, ++expected);
  writes.fetch_add(1, std::memory_order::relaxed);
}

void MovingWorld::Report(std::string what) {
  std::lock_guard lock(breach_mutex_);
  if (breach_.empty()) breach_ = std::move(what);
  squad_.Stop();
}

std::string MovingWorld::Breach() {
  std::lock_guard lock(breach_mutex_);
  return breach_;
}

std::string MovingWorld::WhatIsLeft() {
  std::string left = WhatIsWrongWith(mmu_.stage2());
  const MmuStats stats = mmu_.Stats();
  if (stats.notifier.in_flight != 0 || mmu_.in_flight().count() != 0) {
    absl::StrAppend(&left, "; brackets in flight: ", stats.notifier.in_flight, " counted, ",
                    mmu_.in_flight().count(), " in the set");
  }
  if (stats.pfn_caches.count != 0) {
    absl::StrAppend(&left, "; pfn caches listed: ", stats.pfn_caches.count);
  }
  return left;
}

}  // namespace underfoot::testing
