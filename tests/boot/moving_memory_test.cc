// The guest's memory moves while it runs; and the guest notices when it moves wrongly.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "tests/support/minimal_vmm.h"
#include "tests/support/random.h"
#include "tests/support/ring_peer.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kPatternSeed = 78;

std::string Story(MinimalVmm& vmm) {
  std::string story;
  for (const std::string& line : vmm.lines()) story += line + "\n";
  return story;
}

void DiscardSomePages(MinimalVmm& vmm, Random& random) {
  const KvmMemslot slot = vmm.slot(MinimalVmm::kDiscardable);
  const uint64_t pages = slot.bytes / kPageSize;
  const uint64_t first = random.Below(pages);
  const uint64_t count = std::min(random.Between(1, 64), pages - first);
  ASSERT_EQ(madvise(PointerOf(slot.hva + first * kPageSize), count * kPageSize, MADV_DONTNEED), 0);
}

void BlinkASlot(MinimalVmm& vmm, Random& random) {
  const MinimalVmm::Slot slots[] = {MinimalVmm::kPrecious, MinimalVmm::kShared,
                                    MinimalVmm::kDiscardable};
  const MinimalVmm::Slot slot = slots[random.Below(3)];
  // Away until the guest has met the hole, or has had the time to: it may be busy elsewhere.
  const uint64_t before = vmm.mmio_exits();
  ASSERT_TRUE(vmm.RemoveSlot(slot).ok());
  static_cast<void>(
      WaitUntil([&] { return vmm.mmio_exits() > before + 8; }, std::chrono::milliseconds(2)));
  const absl::Status status = vmm.RestoreSlot(slot);
  ASSERT_TRUE(status.ok()) << status;
}

class MovingMemory : public ::testing::TestWithParam<unsigned> {};

TEST_P(MovingMemory, KeepsEveryPromiseToTheGuest) {
  UNDERFOOT_NEEDS_KVM();
  constexpr int kBlinks = 30;
  auto vmm = MinimalVmm::Create(
      {.vcpus = GetParam(), .workload = abi::Workload::kMixed, .seed = kPatternSeed});
  ASSERT_TRUE(vmm.ok()) << vmm.status();
  RingPeer peer((*vmm)->shared_page(), kPatternSeed);
  Random random;

  ASSERT_TRUE((*vmm)->Start().ok());
  for (int i = 0; i < kBlinks; ++i) {
    for (int j = 0; j < 20; ++j) DiscardSomePages(**vmm, random);
    peer.Step();
    BlinkASlot(**vmm, random);
    peer.Step();
  }
  const GuestReports reports = (*vmm)->reports();
  EXPECT_TRUE(WaitUntil([&] {
    DiscardSomePages(**vmm, random);
    peer.Step();
    return reports.Total().zero_pages > 100 && peer.answered() > 100;
  }));
  (*vmm)->RequestStop();
  const absl::Status joined = (*vmm)->Join();
  peer.Drain();

  ASSERT_TRUE(joined.ok()) << joined << "\n" << Story(**vmm);
  EXPECT_EQ((*vmm)->platform().exit_device().overall(), abi::Verdict::kGood) << Story(**vmm);
  EXPECT_EQ(peer.errors(), 0u);
  EXPECT_EQ(peer.answered(), reports.Read(0).ring_answered);
  EXPECT_GT((*vmm)->mmio_exits(), 0u);
}

INSTANTIATE_TEST_SUITE_P(Vcpus, MovingMemory, ::testing::Values(1u, 2u, 4u));

// Negative controls: the memory is damaged behind the guest's back, and it has to say so.
class Damage : public ::testing::Test {
 protected:
  void Run(abi::Workload workload) {
    auto vmm = MinimalVmm::Create({.vcpus = 1, .workload = workload, .seed = kPatternSeed});
    ASSERT_TRUE(vmm.ok()) << vmm.status();
    vmm_ = *std::move(vmm);
    ASSERT_TRUE(vmm_->Start().ok());
  }

  // A page of `slot` that the guest has written, all `words` of it, and is not at just now: if it
  // is stopped before it goes on, it will verify the page and not write it again.
  Gpa PauseAtAWrittenPage(MinimalVmm::Slot slot, size_t words = 8) {
    const KvmMemslot memslot = vmm_->slot(slot);
    Gpa found{};
    uint64_t rounds = 0;
    const bool ok = WaitUntil([&] {
      // It must get on between two pauses.
      rounds += 20;
      if (!WaitUntil([&] { return vmm_->reports().Read(0).rounds >= rounds; })) return false;
      vmm_->vcpu(0).Pause();
      for (uint64_t offset = 0; offset < memslot.bytes; offset += kPageSize) {
        const Gpa page = memslot.gpa + offset;
        const uint64_t visiting = vmm_->reports().Read(0).visiting_gpa;
        if (page.value - visiting >= 64 * kPageSize && WordsIn(page).size() == words) {
          found = page;
          return true;
        }
      }
      vmm_->vcpu(0).Resume();
      return false;
    });
    EXPECT_TRUE(ok) << "no page of slot " << slot << " was ever written";
    return found;
  }

  std::vector<Gpa> WordsIn(Gpa page) const {
    std::vector<Gpa> words;
    for (uint64_t offset = 0; offset < kPageSize; offset += sizeof(uint64_t)) {
      if (vmm_->ReadWord(page + offset) != 0) words.push_back(page + offset);
    }
    return words;
  }

  // Lets the guest find it, and returns its report.
  abi::Report Finish() {
    vmm_->RequestStop();
    vmm_->vcpu(0).Resume();
    const absl::Status joined = vmm_->Join();
    EXPECT_TRUE(joined.ok()) << joined;
    return vmm_->reports().Read(0);
  }

  std::unique_ptr<MinimalVmm> vmm_;
};

TEST_F(Damage, OfAPreciousWordIsReportedWithItsPlace) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Run(abi::Workload::kStamp));
  const Gpa page = PauseAtAWrittenPage(MinimalVmm::kPrecious);
  const Gpa word = WordsIn(page)[3];
  const uint64_t right = vmm_->ReadWord(word);

  vmm_->WriteWord(word, right ^ 2);
  const abi::Report report = Finish();

  EXPECT_EQ(report.verdict, abi::Verdict::kMismatch);
  ASSERT_EQ(report.mismatches, 1u) << Story(*vmm_);
  EXPECT_EQ(report.first[0].gfn, GfnOf(page).value);
  EXPECT_EQ(report.first[0].word, OffsetInPage(word) / sizeof(uint64_t));
  EXPECT_EQ(report.first[0].expected, right);
  EXPECT_EQ(report.first[0].found, right ^ 2);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kCorrupt);
}

TEST_F(Damage, ByDiscardingAPreciousPageIsReportedAsLost) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Run(abi::Workload::kStamp));
  const Gpa page = PauseAtAWrittenPage(MinimalVmm::kPrecious);

  ASSERT_EQ(madvise(PointerOf(vmm_->HvaOfGpa(page)), kPageSize, MADV_DONTNEED), 0);
  const abi::Report report = Finish();

  ASSERT_EQ(report.mismatches, 8u) << Story(*vmm_);
  EXPECT_EQ(report.first[0].gfn, GfnOf(page).value);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kLost);
}

TEST_F(Damage, ByOldContentBehindAZeroInADiscardablePageIsReported) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Run(abi::Workload::kStamp));
  const Gpa page = PauseAtAWrittenPage(MinimalVmm::kDiscardable);

  vmm_->WriteWord(WordsIn(page)[2], 0);
  const abi::Report report = Finish();

  ASSERT_EQ(report.mismatches, 5u) << Story(*vmm_);
  EXPECT_EQ(report.first[0].gfn, GfnOf(page).value);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kResurrected);
}

TEST_F(Damage, OfAWordThatAllVcpusCheckIsReported) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Run(abi::Workload::kSmp));
  const Gpa page = PauseAtAWrittenPage(MinimalVmm::kPrecious, /*words=*/1);
  const Gpa word = WordsIn(page)[0];

  vmm_->WriteWord(word, vmm_->ReadWord(word) + 1);
  const abi::Report report = Finish();

  EXPECT_EQ(report.verdict, abi::Verdict::kMismatch);
  ASSERT_EQ(report.mismatches, 1u) << Story(*vmm_);
  EXPECT_EQ(report.first[0].gfn, GfnOf(page).value);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kCorrupt);
}

TEST_F(Damage, OfAWholeDiscardablePageToZeroesIsNone) {
  UNDERFOOT_NEEDS_KVM();
  ASSERT_NO_FATAL_FAILURE(Run(abi::Workload::kStamp));
  const Gpa page = PauseAtAWrittenPage(MinimalVmm::kDiscardable);

  ASSERT_EQ(madvise(PointerOf(vmm_->HvaOfGpa(page)), kPageSize, MADV_DONTNEED), 0);
  const abi::Report report = Finish();

  EXPECT_EQ(report.mismatches, 0u) << Story(*vmm_);
  EXPECT_EQ(report.zero_pages, 1u);
  EXPECT_EQ(report.verdict, abi::Verdict::kGood);
}

class RingDamage : public ::testing::Test {
 protected:
  // Runs some good records, then one that `spoil` damages, and returns vCPU 0's report.
  abi::Report Run(const std::function<void(RingPeer&)>& spoil) {
    auto vmm = MinimalVmm::Create({.workload = abi::Workload::kShared, .seed = kPatternSeed});
    EXPECT_TRUE(vmm.ok()) << vmm.status();
    if (!vmm.ok()) return {};
    RingPeer peer((*vmm)->shared_page(), kPatternSeed);
    EXPECT_TRUE((*vmm)->Start().ok());
    EXPECT_TRUE(WaitUntil([&] {
      peer.Step();
      return peer.answered() > 200;
    }));
    spoil(peer);
    const uint64_t before = peer.produced();
    EXPECT_TRUE(WaitUntil([&] {
      peer.Step();
      return peer.answered() > before;
    }));
    (*vmm)->RequestStop();
    EXPECT_TRUE((*vmm)->Join().ok());
    return (*vmm)->reports().Read(0);
  }
};

TEST_F(RingDamage, AStaleSequenceIsReported) {
  UNDERFOOT_NEEDS_KVM();
  const abi::Report report =
      Run([](RingPeer& peer) { peer.SpoilNextSequence(0 - abi::kRingRecords); });
  ASSERT_EQ(report.mismatches, 1u);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kRingStale);
  EXPECT_EQ(report.first[0].expected, report.first[0].found + abi::kRingRecords);
}

TEST_F(RingDamage, ALostRecordIsReported) {
  UNDERFOOT_NEEDS_KVM();
  const abi::Report report = Run([](RingPeer& peer) { peer.SpoilNextSequence(abi::kRingRecords); });
  ASSERT_EQ(report.mismatches, 1u);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kRingLost);
}

TEST_F(RingDamage, AWrongPayloadIsReported) {
  UNDERFOOT_NEEDS_KVM();
  const abi::Report report = Run([](RingPeer& peer) { peer.SpoilNextPayload(1); });
  ASSERT_EQ(report.mismatches, 1u);
  EXPECT_EQ(report.first[0].kind, abi::MismatchKind::kRingCorrupt);
}

}  // namespace
}  // namespace underfoot::testing
