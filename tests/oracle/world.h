// The real library beside the model: one Mmu over all islands, and for each island the state that
// the model has of it.
//
// Thread safety: any thread. An island belongs to the thread that holds its mutex, which protects
// everything about the island. Order: shared_mutex, then the islands by number. A thread that waits
// for a mutex has no read section open, because the holder of the mutex may be inside a Begin that
// waits for readers.

#ifndef UNDERFOOT_TESTS_ORACLE_WORLD_H_
#define UNDERFOOT_TESTS_ORACLE_WORLD_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "mmu/mmu.h"
#include "mmu/pfn_cache.h"
#include "tests/oracle/layout.h"
#include "tests/oracle/memory.h"
#include "tests/oracle/shortage.h"
#include "tests/oracle/state.h"

namespace underfoot::oracle {

// The last operations of an island, for the report of a failure.
class History {
 public:
  struct Line {
    uint64_t number = 0;
    unsigned thread = 0;
    Operation operation;
    Outcome expected;
  };
  void Add(const Line& line) { lines_[added_++ % kLines] = line; }
  std::string Text() const;

 private:
  static constexpr unsigned kLines = 24;
  std::array<Line, kLines> lines_{};
  uint64_t added_ = 0;
};

struct Island {
  explicit Island(Mmu& mmu);

  std::mutex mutex;
  unsigned number = 0;
  State state;
  History history;
  std::array<PfnCache, kCaches> caches;
  std::array<Reader, kClaimants> claimants;
  std::array<BracketToken, kOwnBrackets> brackets;
  uint64_t flushes = 0;  // that its operations should have made
  // The numbers of sections that threads keep open: on a page, on a page with permission to write,
  // and on a cache.
  std::array<std::atomic<uint32_t>, kCells> readers{};
  std::array<std::atomic<uint32_t>, kCells> writers{};
  std::array<std::atomic<uint32_t>, kCaches> cache_readers{};
  // The number of brackets over each cell, and the sum of its words when the first of them began.
  // No thread writes to a page while a bracket covers it.
  std::array<uint32_t, kCells> brackets_over{};
  std::array<uint64_t, kCells> frozen_sums{};
};

// The test's own subscriber. Begin and TestClearYoung call it last.
class CountingSubscriber final : public Subscriber {
 public:
  explicit CountingSubscriber(const Memory& memory) : memory_(memory) {}
  bool Invalidate(const Invalidation& invalidation) override;
  bool TestClearYoung(HvaRange range, bool clear) override;

  struct Record {
    bool young = false;
    uint32_t invalidated = 0;
    uint32_t asked = 0;
  };
  std::array<Record, kIslands> records;  // each used by the thread that holds the island

 private:
  template <class Visitor>
  void ForEachOverlap(HvaRange range, const Visitor& visit);
  const Memory& memory_;
};

// The page source calls the driver that runs on this thread.
class DriversPageSource final : public PageSource {
 public:
  PageInResult PageIn(Hva page, Access access, FaultContext*) override;
  void PageInSome(HvaRange pages, std::span<PageInResult> results, FaultContext*) override;
};

class World {
 public:
  explicit World(uint64_t retired_cap_bytes);
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Mmu& mmu() { return mmu_; }
  Island& island(unsigned number) { return *islands_[number]; }
  CountingSubscriber& subscriber() { return subscriber_; }

  Hva HvaOf(const Island& island, unsigned cell) const {
    return memory_.PageAt(FirstPageOf(island.number) + PageOfCell(island.number, cell));
  }
  HvaRange HvasOf(const Island& island, Cells cells) const {
    return {HvaOf(island, cells.begin), HvaOf(island, cells.end)};
  }
  Pfn PfnAt(const Island& island, unsigned cell, uint32_t frame) const {
    return oracle::PfnOf(FirstPageOf(island.number) + PageOfCell(island.number, cell), frame);
  }
  static Gfn GfnAt(const Island& island, unsigned view, unsigned cell, unsigned place) {
    return FirstGfnOf(island.number, view) + PageOfCell(island.number, cell) +
           place * kPagesToOtherPlace;
  }
  // The place of the memslot now.
  static Gfn GfnOf(const Island& island, unsigned view, unsigned cell) {
    return GfnAt(island, view, cell, island.state.views[view].place);
  }

  // Checks that the tags of existing readers are unique. Returns false if another reader has this
  // tag.
  bool TakeTag(OwnerTag tag) { return !tags_[tag].exchange(true); }
  void GiveBackTag(OwnerTag tag) { tags_[tag] = false; }

  // Records a failure. Only the first one counts. The threads see it and stop.
  void Fail(const std::string& what);
  bool failed() const { return failed_.load(std::memory_order::relaxed); }
  std::string failure();

  // A thread that works on more than one island takes this mutex first.
  std::mutex shared_mutex;
  struct SharedBracket {
    BracketToken token;
    unsigned first = 0;  // the first and the last island, both included
    unsigned last = 0;
  };
  std::array<SharedBracket, kSharedBrackets> shared_brackets;
  uint64_t shared_flushes = 0;
  Shortage* shortage = nullptr;  // nullptr: memory never runs out; set before the threads start

 private:
  Memory memory_{kTotalPages};
  DriversPageSource source_;
  Mmu mmu_;
  CountingSubscriber subscriber_{memory_};
  std::array<std::unique_ptr<Island>, kIslands> islands_;
  std::array<std::atomic<bool>, kMaxOwnerTag + 1> tags_{};
  std::atomic<bool> failed_{false};
  std::mutex failure_mutex_;
  std::string failure_;
};

std::string TextOf(const Operation& operation);
std::string TextOf(const Outcome& outcome);

}  // namespace underfoot::oracle

#endif  // UNDERFOOT_TESTS_ORACLE_WORLD_H_
