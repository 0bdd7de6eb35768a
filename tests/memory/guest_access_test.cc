// The VMM's own accesses to guest RAM, with a translation and without.

#include "vmm/ram/guest_access.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "mmu/base/rcu.h"
#include "tests/memory/memory_test.h"
#include "tests/support/thread_state.h"
#include "vmm/sources/hooks/hooked_calls.h"

namespace underfoot::testing {
namespace {

class GuestAccessTest : public MemoryTest {
 protected:
  void SetUp() override {
    MemoryTest::SetUp();
    if (side_ != nullptr) StartMonitor();
  }

  absl::Status Write(Gpa gpa, std::vector<std::byte> bytes) {
    Reader reader(mmu().readers());
    return side().access.Write(reader, gpa, bytes);
  }
  absl::Status WriteWord(Gpa gpa, uint64_t word) {
    Reader reader(mmu().readers());
    return side().access.Write(reader, gpa, std::as_bytes(std::span(&word, 1)));
  }
  uint64_t ReadWord(Gpa gpa) {
    Reader reader(mmu().readers());
    uint64_t word = 0;
    const absl::Status read =
        side().access.Read(reader, gpa, std::as_writable_bytes(std::span(&word, 1)));
    EXPECT_TRUE(read.ok()) << read;
    return word;
  }
  // Of the slot that the tests' pages lie in.
  uint32_t SlotId() { return side().memory->slots()[2].id; }
  void DeleteSlot() { ASSERT_TRUE(mmu().DeleteMemslot(SlotId()).ok()); }
  void CreateSlot() {
    const RamSlot& slot = side().memory->slots()[SlotId()];
    const Gfn gfn = GfnOf(slot.gpa);
    ASSERT_TRUE(
        mmu()
            .CreateMemslot(
                {.id = slot.id, .gfns = {gfn, gfn + slot.bytes / kPageSize}, .hva = slot.hva})
            .ok());
  }
};

TEST_P(GuestAccessTest, AReadOnlyMemslotIsNotWritten) {
  ASSERT_TRUE(WriteWord(side().GpaAt(3), 1).ok());
  for (const RamSlot& slot : side().memory->slots()) {
    ASSERT_TRUE(mmu().SetMemslotFlags(slot.id, {.read_only = true}).ok());
  }
  EXPECT_TRUE(absl::IsPermissionDenied(WriteWord(side().GpaAt(3), 2)));
  EXPECT_EQ(ReadWord(side().GpaAt(3)), 1u);
}

TEST_P(GuestAccessTest, AWriteGoesThroughATranslationAndMakesItDirty) {
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 0x1122334455667788).ok());
  EXPECT_EQ(side().Load(0), 0x1122334455667788u);
  EXPECT_TRUE(side().LeafOf(0)->dirty());
  EXPECT_EQ(ReadWord(side().GpaAt(0)), 0x1122334455667788u);
  EXPECT_EQ(ReadWord(side().GpaAt(1)), 0u);
  EXPECT_FALSE(side().LeafOf(1)->dirty());
}

TEST_P(GuestAccessTest, AnAccessMayCrossPagesAndSlots) {
  // From the last page of the slot before into ours.
  std::vector<std::byte> bytes(2 * kPageSize);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  const Gpa gpa = side().GpaAt(0) - 100;
  ASSERT_TRUE(Write(gpa, bytes).ok());
  std::vector<std::byte> back(bytes.size());
  Reader reader(mmu().readers());
  ASSERT_TRUE(side().access.Read(reader, gpa, back).ok());
  EXPECT_EQ(back, bytes);
  EXPECT_EQ(std::memcmp(PointerOf(side().PageAt(0)), &bytes[100], kPageSize), 0);
}

// Over the end of a slot and beyond what one table maps. A page that is there stays as it is.
TEST_P(GuestAccessTest, ARangeIsBroughtInBeforeItIsUsed) {
  constexpr uint64_t kPages = 1100;
  const uint64_t slot_pages = side().memory->slots()[2].bytes / kPageSize;
  ASSERT_TRUE(WriteWord(side().GpaAt(slot_pages - 7), 77).ok());
  const Gfn begin = side().GfnAt(slot_pages - 10);
  Reader reader(mmu().readers());
  side().access.BringIn(reader, {begin, begin + kPages}, Around::kBlocks);
  for (const uint64_t i : {uint64_t{0}, uint64_t{9}, uint64_t{10}, kPages - 1}) {
    rcu::ReadScope rcu;
    const auto leaf = mmu().stage2().Lookup(begin + i);
    ASSERT_TRUE(leaf.has_value()) << i;
    EXPECT_TRUE(leaf->pte.writable()) << i;
    EXPECT_FALSE(leaf->pte.dirty() || leaf->pte.young()) << i;
  }
  EXPECT_EQ(ReadWord(side().GpaAt(slot_pages - 7)), 77u);
  EXPECT_EQ(side().monitor.Stats().missing, 0u);
}

// What cannot come in is left to the access, which has the error.
TEST_P(GuestAccessTest, ARangeOutOfRamOrWithoutAMemslotIsNotBroughtIn) {
  Reader reader(mmu().readers());
  const Gfn end = GfnOf({side().memory->bytes()});
  side().access.BringIn(reader, {end, end + 20}, Around::kBlocks);
  DeleteSlot();
  side().access.BringIn(reader, {side().GfnAt(0), side().GfnAt(20)}, Around::kBlocks);
  EXPECT_FALSE(side().EntryOf(3).present);
}

// One range would have more pages than a section may announce.
TEST_P(GuestAccessTest, CopiesThatLieFarApartAreMadeInSectionsOfTheirOwn) {
  const Gpa near = side().GpaAt(0);
  const Gpa far = side().memory->slots().back().gpa;
  ASSERT_GT((far - near) >> kPageShift, RangeSection::kMaxPages);
  std::array<uint64_t, 4> words = {1, 2, 3, 4};
  const std::array<Gpa, 4> places = {near, far, near + kPageSize, far + kPageSize};
  for (const Gpa place : places) ASSERT_TRUE(WriteWord(place, 0).ok());
  std::vector<GuestCopy> copies;
  for (size_t i = 0; i < words.size(); ++i) {
    copies.push_back({places[i], Access::kWrite, std::bit_cast<std::byte*>(&words[i]), 8});
  }
  Reader reader(mmu().readers());
  EXPECT_EQ(side().access.TryCopy(reader, copies), copies.size());
  for (size_t i = 0; i < words.size(); ++i) EXPECT_EQ(ReadWord(places[i]), words[i]);
}

TEST_P(GuestAccessTest, ACopyEndsAtThePageThatHasNoTranslation) {
  std::vector<std::byte> bytes(3 * kPageSize, std::byte{7});
  ASSERT_TRUE(Write(side().GpaAt(0), bytes).ok());
  { InvalidationScope bracket(mmu().notifier(), {side().Pages(1, 1)}); }
  std::vector<std::byte> back(bytes.size());
  const std::array<GuestCopy, 2> copies = {
      {{side().GpaAt(0), Access::kRead, back.data(), 100},
       {side().GpaAt(0) + 100, Access::kRead, back.data() + 100, bytes.size() - 100}}};
  Reader reader(mmu().readers());
  EXPECT_EQ(side().access.TryCopy(reader, copies), 1u);
  EXPECT_EQ(back[kPageSize - 1], std::byte{7});
  EXPECT_EQ(back[kPageSize], std::byte{0});
  ASSERT_TRUE(side().access.Read(reader, side().GpaAt(0), back).ok());
  EXPECT_EQ(back, bytes);
}

TEST_P(GuestAccessTest, WhileItsSlotIsAwayTheAccessGoesByHva) {
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 5).ok());
  DeleteSlot();
  EXPECT_EQ(ReadWord(side().GpaAt(0)), 5u);
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 6).ok());
  ASSERT_TRUE(WriteWord(side().GpaAt(1), 7).ok());
  EXPECT_FALSE(side().LeafOf(0).has_value());
  CreateSlot();
  EXPECT_EQ(ReadWord(side().GpaAt(0)), 6u);
  EXPECT_EQ(ReadWord(side().GpaAt(1)), 7u);
  EXPECT_TRUE(side().LeafOf(0).has_value());
}

TEST_P(GuestAccessTest, WhileARemovalIsPendingTheAccessGoesByHva) {
  Create(absl::Hours(1));
  StartMonitor();
  side().removals.Add(side().Pages(0));
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 5).ok());
  EXPECT_EQ(ReadWord(side().GpaAt(0)), 5u);
  EXPECT_FALSE(side().LeafOf(0).has_value());
}

TEST_P(GuestAccessTest, AWriteByHvaLiftsAWriteProtection) {
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 5).ok());
  ASSERT_TRUE(hooked::WriteProtect(side().uffd, side().Pages(0)).ok());
  DeleteSlot();
  EXPECT_EQ(ReadWord(side().GpaAt(0)), 5u);
  EXPECT_TRUE(side().EntryOf(0).uffd_wp);
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 6).ok());
  EXPECT_FALSE(side().EntryOf(0).uffd_wp);
  EXPECT_EQ(side().monitor.Stats().wp, 0u);
}

TEST_P(GuestAccessTest, AnAccessByHvaWaitsForTheBracketInItsWay) {
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 5).ok());
  DeleteSlot();
  std::atomic<bool> done{false};
  std::atomic<pid_t> writer_id{0};
  std::thread writer;
  {
    InvalidationScope bracket(mmu().notifier(), {side().Pages(0)});
    writer = std::thread([&] {
      writer_id = gettid();
      EXPECT_TRUE(WriteWord(side().GpaAt(0), 6).ok());
      done = true;
    });
    EXPECT_TRUE(WaitUntil([&] { return done || (writer_id != 0 && ThreadSleeps(writer_id)); }));
    EXPECT_FALSE(done);
    EXPECT_EQ(side().Load(0), 5u);
  }
  writer.join();
  EXPECT_EQ(side().Load(0), 6u);
}

// As mremap churn does it, with the slot away as well.
TEST_P(GuestAccessTest, AnAccessByHvaWaitsForAMappingThatIsAway) {
  ASSERT_TRUE(WriteWord(side().GpaAt(0), 5).ok());
  DeleteSlot();
  const Hva home = side().PageAt(0);
  void* const elsewhere = mmap(nullptr, kPageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(elsewhere, MAP_FAILED);
  std::atomic<bool> done{false};
  std::atomic<pid_t> writer_id{0};
  std::thread writer;
  {
    const MmHooks::Absence away(side().hooks, side().Pages(0));
    ASSERT_TRUE(hooked::Mremap(side().Pages(0), HvaOf(elsewhere)).ok());
    // Into a hole another thread's mapping could come, and the way back would take it away. Past
    // the hooks, to which this is no change of RAM.
    ASSERT_EQ(syscall(SYS_mmap, home.value, kPageSize, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
              static_cast<long>(home.value));
    writer = std::thread([&] {
      writer_id = gettid();
      const absl::Status written = WriteWord(side().GpaAt(0), 6);
      EXPECT_TRUE(written.ok()) << written;
      done = true;
    });
    EXPECT_TRUE(WaitUntil([&] { return done || (writer_id != 0 && ThreadSleeps(writer_id)); }));
    EXPECT_FALSE(done);
    ASSERT_TRUE(hooked::Mremap(PageRangeOf(HvaOf(elsewhere)), home).ok());
  }
  writer.join();
  EXPECT_EQ(side().Load(0), 6u);
}

// What a test does in the middle of a page-in.
class StagedPageIns final : public PageSource {
 public:
  using Stage = std::function<PageInResult(Hva page, Access access)>;

  void Set(Stage stage) { stage_ = std::move(stage); }
  PageInResult PageIn(Hva page, Access access, FaultContext*) override {
    return stage_(page, access);
  }

 private:
  Stage stage_;
};

TEST_P(GuestAccessTest, AFailureDuringABracketIsRetried) {
  StagedPageIns source;
  Mmu without_slots(source);
  bool failed = false;
  source.Set([&](Hva page, Access wanted) {
    if (std::exchange(failed, true)) return side().source.PageIn(page, wanted, nullptr);
    InvalidationScope came_and_went(without_slots.notifier(), {PageRangeOf(page)});
    return PageInResult{};
  });
  GuestAccess access(without_slots, *side().memory, side().pagemap);
  Reader reader(without_slots.readers());
  std::array<std::byte, 8> word{};
  const absl::Status read = access.Read(reader, side().GpaAt(0), word);
  EXPECT_TRUE(read.ok()) << read;
}

// As while a fork event waits to be read for which no descriptor is free.
TEST_P(GuestAccessTest, AnAccessThatTheSourceDefersTooOftenIsUnavailableAndCanBeRepeated) {
  constexpr unsigned kTries = 12;
  StagedPageIns source;
  Mmu mmu(source, {.page_in_tries = kTries});
  unsigned refused = 0;
  bool again = true;
  source.Set([&](Hva page, Access wanted) {
    if (!again) return side().source.PageIn(page, wanted, nullptr);
    ++refused;
    return PageInResult{PageInOutcome::kAgain, {}, Access::kRead};
  });
  GuestAccess access(mmu, *side().memory, side().pagemap);
  Reader reader(mmu.readers());
  const RamSlot& slot = side().memory->slots()[SlotId()];
  const Gfn gfn = GfnOf(slot.gpa);
  std::array<std::byte, 8> word{};
  for (const bool by_hva : {true, false}) {
    if (!by_hva) {
      ASSERT_TRUE(
          mmu.CreateMemslot(
                 {.id = slot.id, .gfns = {gfn, gfn + slot.bytes / kPageSize}, .hva = slot.hva})
              .ok());
    }
    again = true;
    refused = 0;
    const absl::Status read = access.Read(reader, side().GpaAt(0), word);
    EXPECT_TRUE(absl::IsUnavailable(read)) << read;
    EXPECT_NE(std::string(read.message()).find("try again later"), std::string::npos) << read;
    EXPECT_EQ(refused, kTries);
    again = false;
    EXPECT_TRUE(access.Read(reader, side().GpaAt(0), word).ok());
  }
}

TEST_P(GuestAccessTest, AnAccessByHvaWaitsForABracketThatBeganAfterThePageIn) {
  StagedPageIns source;
  Mmu without_slots(source);
  std::optional<BracketToken> overtaking;  // begins before anybody can use the page
  std::atomic<bool> overtaken{false};
  source.Set([&](Hva page, Access wanted) {
    const PageInResult in = side().source.PageIn(page, wanted, nullptr);
    if (!overtaking.has_value()) overtaking = without_slots.notifier().Begin({PageRangeOf(page)});
    overtaken = true;
    return in;
  });
  GuestAccess access(without_slots, *side().memory, side().pagemap);
  std::atomic<bool> done{false};
  std::atomic<pid_t> writer_id{0};
  std::thread writer([&] {
    Reader reader(without_slots.readers());
    std::array<std::byte, 8> word{};
    writer_id = gettid();
    EXPECT_TRUE(access.Write(reader, side().GpaAt(0), word).ok());
    done = true;
  });
  EXPECT_TRUE(WaitUntil([&] { return done || (overtaken && ThreadSleeps(writer_id)); }));
  EXPECT_FALSE(done);
  without_slots.notifier().End(*overtaking);
  writer.join();
}

TEST_P(GuestAccessTest, AnAccessByHvaNoticesABracketThatIsOver) {
  StagedPageIns source;
  Mmu without_slots(source);
  int page_ins = 0;
  source.Set([&](Hva page, Access wanted) {
    const PageInResult in = side().source.PageIn(page, wanted, nullptr);
    if (++page_ins > 1) return in;
    InvalidationScope came_and_went(without_slots.notifier(), {PageRangeOf(page)});
    EXPECT_TRUE(side().hooks.Discard(PageRangeOf(page)).ok());
    return in;
  });
  GuestAccess access(without_slots, *side().memory, side().pagemap);
  Reader reader(without_slots.readers());
  std::array<std::byte, 8> word{};
  EXPECT_TRUE(access.Write(reader, side().GpaAt(0), word).ok());
  EXPECT_EQ(page_ins, 2) << "the access has found its page gone, instead of faulting on it";
}

TEST_P(GuestAccessTest, AnAccessOutsideOfRamIsOutOfRangeAndNamesTheGpa) {
  const Gpa end{side().memory->bytes()};
  const absl::Status beyond = WriteWord(end, 1);
  EXPECT_TRUE(absl::IsOutOfRange(beyond)) << beyond;
  EXPECT_NE(beyond.message().find("0x2000000"), std::string::npos) << beyond;
  EXPECT_TRUE(absl::IsOutOfRange(Write(end - 4, std::vector<std::byte>(8))));
  EXPECT_TRUE(absl::IsOutOfRange(WriteWord({~uint64_t{0} - 7}, 1)));
  EXPECT_TRUE(absl::IsOutOfRange(Write({~uint64_t{0} - 7}, std::vector<std::byte>(64))));
  EXPECT_TRUE(Write(end - 4, std::vector<std::byte>(4)).ok());
}

// The two halves of a word are always of one write, with a translation and while the slot is away.
TEST_P(GuestAccessTest, AWordIsReadAndWrittenInOneAccess) {
  constexpr uint64_t kWrites = 10000;
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> looks{0};
  std::thread guest([&] {
    while (!stop) {
      const uint64_t word = side().Load(0);
      ASSERT_EQ(word >> 32, word & 0xffffffff);
      ++looks;
    }
  });
  Reader reader(mmu().readers());
  uint64_t n = 0;
  // Until the guest has looked, too: it may not have been given a CPU yet.
  const auto write_many = [&] {
    const uint64_t last = n + kWrites;
    const uint64_t looks_before = looks;
    const absl::Time limit = absl::Now() + absl::FromChrono(kDeadline);
    while (n < last || looks == looks_before) {
      if (n >= last) std::this_thread::yield();
      ++n;
      const uint64_t word = n << 32 | n;
      ASSERT_TRUE(
          side().access.Write(reader, side().GpaAt(0), std::as_bytes(std::span(&word, 1))).ok());
      ASSERT_TRUE(n % 16 != 0 || ReadWord(side().GpaAt(0)) == word);
      ASSERT_LT(absl::Now(), limit) << "nobody looks";
    }
  };
  write_many();
  DeleteSlot();
  write_many();
  stop = true;
  guest.join();
}

UNDERFOOT_FOR_BOTH_BACKINGS(GuestAccessTest);

}  // namespace
}  // namespace underfoot::testing
