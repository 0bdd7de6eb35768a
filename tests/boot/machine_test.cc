// Whole machines: real guests while their memory is churned, judged by the guest and by the stats.

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_format.h"
#include "mmu/base/rcu.h"
#include "mmu/mmu.h"
#include "tests/boot/machine_fixture.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {
namespace {

// The socket answers before the machine runs: what is ordered then would be lost.
TEST_F(MachineTest, AClientCannotSetTheChurnBeforeTheStart) {
  const RunOptions options = MachineOptions("mixed", Backing::kAnon, 1, "mixed");
  absl::StatusOr<std::unique_ptr<Machine>> machine =
      Machine::Create(options, [](unsigned, std::string_view) {});
  if (absl::IsPermissionDenied(machine.status())) {
    UNDERFOOT_SKIP(std::string(machine.status().message()));
  }
  ASSERT_TRUE(machine.ok()) << machine.status();
  MachineControl control(**machine);
  const ChurnRequest stop{.running = false, .seed = {}, .rates = {}};
  EXPECT_TRUE(absl::IsFailedPrecondition(control.PutChurn(stop).status()));
  ASSERT_TRUE((*machine)->Start().ok());
  const absl::StatusOr<ChurnState> stopped = control.PutChurn(stop);
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  EXPECT_FALSE(stopped->running);
}

// A machine that starts without churn waits for no source; its churn may come from a client.
TEST_F(MachineTest, TheCoverageIncludesTheKernelSourceForChurnThatStartsLater) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("stamp", Backing::kAnon, 1, "off")));
  if (machine_ == nullptr) return;
  if (const absl::Status open = machine_->kernel().WaitUntilOpen(); !open.ok()) {
    UNDERFOOT_SKIP(std::string(open.message()));
  }
  MachineControl control(*machine_);
  const auto ordered =
      control.PutChurn({.running = true, .seed = {}, .rates = ChurnRates{{ChurnKind::kFork, 100}}});
  ASSERT_TRUE(ordered.ok()) << ordered.status();
  constexpr auto kKernel = static_cast<size_t>(EventSource::kKernel);
  const auto forks = [&] {
    const CoverageMatrix matrix = machine_->coverage();
    return matrix.rows[static_cast<size_t>(ChurnKind::kFork)];
  };
  EXPECT_TRUE(WaitUntil([&] { return forks().cells[kKernel].owed > 0; }));
  EXPECT_TRUE(machine_->coverage().sources[kKernel]);
  EXPECT_NE(forks().result, CoverageResult::kUnobservable);
  FinishWell();
}

// Each workload on each kind of memory, alone and with others.
class EveryMachine
    : public MachineTest,
      public ::testing::WithParamInterface<std::tuple<const char*, Backing, uint32_t>> {};

TEST_P(EveryMachine, PassesItsGuestsVerdictUnderMixedChurn) {
  const auto [guest, backing, vcpus] = GetParam();
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions(guest, backing, vcpus, "mixed")));
  if (machine_ == nullptr) return;
  const bool moved = Becomes([](const Stats& stats) {
    return TotalOperations(stats.churn.operations) > 200 && stats.notifier.ends > 150 &&
           (stats.guest.pages_checked > 1000 || stats.guest.workload == "shared") &&
           stats.pfn_caches.hits > 100 && stats.audit.checks > 0;
  });
  EXPECT_TRUE(moved) << "operations " << TotalOperations(machine_->GetStats().churn.operations)
                     << ", pages " << machine_->GetStats().guest.pages_checked << ", hits "
                     << machine_->GetStats().pfn_caches.hits;
  FinishWell();
}

std::string NameOfMachine(const ::testing::TestParamInfo<EveryMachine::ParamType>& info) {
  const auto [guest, backing, vcpus] = info.param;
  return absl::StrFormat("%s_%s_%d", guest, BackingName(backing), vcpus);
}

INSTANTIATE_TEST_SUITE_P(Machines, EveryMachine,
                         ::testing::Combine(::testing::Values("stamp", "smp", "shared", "mixed"),
                                            ::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(1u, 4u)),
                         NameOfMachine);

// A kind of churn alone moves its own counters, and those of others stay.
struct KindAlone {
  const char* spec;
  Backing backing;
  bool (*moved)(const Stats&);
  bool (*still)(const Stats&);
};

const KindAlone kKindsAlone[] = {
    // Ours are done without an event of userfaultfd's.
    {"discard:2000", Backing::kAnon,
     [](const Stats& s) { return s.uffd.missing > 50 && s.stage2.unmaps > 50; },
     [](const Stats& s) { return s.uffd.wp + s.uffd.minor + s.uffd.removes == 0; }},
    {"discard:2000", Backing::kMemfd,
     [](const Stats& s) { return s.uffd.missing > 50 && s.stage2.unmaps > 50; },
     [](const Stats& s) { return s.uffd.wp + s.uffd.removes == 0; }},
    {"zap:2000", Backing::kMemfd,
     [](const Stats& s) { return s.uffd.removes > 50 && s.uffd.minor > 20; },
     [](const Stats& s) { return s.uffd.wp == 0; }},
    {"punch:2000", Backing::kMemfd,
     [](const Stats& s) { return s.notifier.ends > 50 && s.stage2.unmaps > 50; },
     [](const Stats& s) { return s.uffd.wp + s.uffd.removes == 0; }},
    {"wp:2000", Backing::kAnon,
     [](const Stats& s) { return s.uffd.wp > 20 && s.notifier.ends > 50; },
     [](const Stats& s) { return s.uffd.removes == 0; }},
    {"wp:2000", Backing::kMemfd,
     [](const Stats& s) { return s.uffd.wp > 20 && s.notifier.ends > 50; },
     [](const Stats& s) { return s.uffd.removes == 0; }},
    {"protect:500", Backing::kAnon,
     [](const Stats& s) { return s.notifier.ends > 50 && s.stage2.unmaps > 20; },
     [](const Stats& s) { return s.uffd.wp + s.uffd.removes == 0; }},
    {"memslot:100", Backing::kAnon,
     [](const Stats& s) { return s.memslots.updates > 20 && s.memslots.update_wait_us_max > 0; },
     [](const Stats& s) { return s.notifier.begins == 0; }},
    {"foreign:500", Backing::kAnon,
     [](const Stats& s) { return s.uffd.removes > 50 && s.notifier.ends > 50; },
     [](const Stats& s) { return s.uffd.wp + s.uffd.minor == 0; }},
    {"foreign:500", Backing::kMemfd,
     [](const Stats& s) { return s.uffd.removes > 50 && s.uffd.minor > 0; },
     [](const Stats& s) { return s.uffd.wp == 0; }},
};

class EachKindOfChurn : public MachineTest, public ::testing::WithParamInterface<KindAlone> {};

TEST_P(EachKindOfChurn, MovesItsOwnCountersOnly) {
  const KindAlone& kind = GetParam();
  RunOptions options = MachineOptions("stamp", kind.backing, 2, kind.spec);
  options.kernel_events = KernelEvents::kOff;  // this host's own changes would move counters too
  ASSERT_NO_FATAL_FAILURE(Start(options));
  if (machine_ == nullptr) return;
  EXPECT_TRUE(Becomes(
      [&](const Stats& stats) { return kind.moved(stats) && stats.guest.pages_checked > 500; }));
  const Stats stats = machine_->GetStats();
  EXPECT_TRUE(kind.still(stats));
  ASSERT_EQ(stats.churn.operations.size(), 1u);
  EXPECT_EQ(stats.churn.operations.begin()->first, options.churn.rates.begin()->first);
  FinishWell();
}

std::string NameOfKind(const ::testing::TestParamInfo<KindAlone>& info) {
  const std::string spec = info.param.spec;
  return spec.substr(0, spec.find(':')) + "_" + std::string(BackingName(info.param.backing));
}

INSTANTIATE_TEST_SUITE_P(Kinds, EachKindOfChurn, ::testing::ValuesIn(kKindsAlone), NameOfKind);

TEST_F(MachineTest, AGuestThatEndsByItselfEndsTheWait) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("hello", Backing::kAnon, 2, "off")));
  if (machine_ == nullptr) return;
  EXPECT_TRUE(machine_->WaitForEnd(absl::FromChrono(3 * kDeadline)));
  EXPECT_TRUE(machine_->Finish().ok());
  EXPECT_GT(lines_, 0);
}

TEST_F(MachineTest, TheCapOfRetiredTablesHoldsThoseOfAllGuestMemory) {
  const RunOptions options = MachineOptions("devices", Backing::kAnon, 1, "off");
  ASSERT_GT(options.HotplugBytes(), 0u);
  ASSERT_NO_FATAL_FAILURE(Start(options));
  if (machine_ == nullptr) return;
  EXPECT_EQ(machine_->GetStats().rcu.cap_bytes,
            RetiredCapFor(options.memory_bytes + options.HotplugBytes()));
  machine_->RequestQuit();
  EXPECT_TRUE(machine_->WaitForEnd(absl::InfiniteDuration()));
  FinishWell();
}

TEST_F(MachineTest, AQuitEndsTheWait) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("stamp", Backing::kAnon, 1, "off")));
  if (machine_ == nullptr) return;
  EXPECT_FALSE(machine_->WaitForEnd(absl::ZeroDuration()));
  machine_->RequestQuit();
  EXPECT_TRUE(machine_->WaitForEnd(absl::InfiniteDuration()));
  FinishWell();
}

TEST_F(MachineTest, APausedGuestStandsStillWhileItsMemoryMoves) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("stamp", Backing::kMemfd, 2, "mixed")));
  if (machine_ == nullptr) return;
  uint64_t pages = 0;
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(Becomes([&](const Stats& stats) { return stats.guest.pages_checked > pages; }));
    ASSERT_TRUE(machine_->Pause().ok());
    EXPECT_TRUE(machine_->Pause().ok());
    pages = machine_->GetStats().guest.pages_checked;
    const uint64_t moved = TotalOperations(machine_->GetStats().churn.operations);
    EXPECT_TRUE(Becomes(
        [&](const Stats& stats) { return TotalOperations(stats.churn.operations) > moved + 20; }));
    EXPECT_EQ(machine_->GetStats().vm.state, VmState::kPaused);
    EXPECT_EQ(machine_->GetStats().guest.pages_checked, pages);
    ASSERT_TRUE(machine_->Resume().ok());
    EXPECT_TRUE(machine_->Resume().ok());
  }
  FinishWell();
  EXPECT_TRUE(absl::IsFailedPrecondition(machine_->Pause()));
  EXPECT_TRUE(absl::IsFailedPrecondition(machine_->Resume()));
}

TEST_F(MachineTest, APausedMachineEndsWithAVerdictToo) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("stamp", Backing::kAnon, 2, "mixed")));
  if (machine_ == nullptr) return;
  EXPECT_TRUE(Becomes([](const Stats& stats) { return stats.guest.pages_checked > 500; }));
  ASSERT_TRUE(machine_->Pause().ok());
  FinishWell();
}

TEST_F(MachineTest, ThePfnCacheOfTheSharedPageIsDroppedAndComesBack) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("shared", Backing::kMemfd, 1, "mixed")));
  if (machine_ == nullptr) return;
  EXPECT_TRUE(Becomes([](const Stats& stats) {
    const PfnCacheStats& caches = stats.pfn_caches;
    return caches.count == 1 && caches.hits > 1000 && caches.misses > 5 && caches.refreshes > 5 &&
           caches.invalidations > 5 && caches.prechecks > 100 && caches.precheck_overlaps > 5 &&
           stats.audit.checks > 0;
  }));
  FinishWell();
}

// Negative control: a bit of a precious page changes under the guest, which must say where.
class Corruption : public MachineTest {
 protected:
  // A page that the guest has written and is not at just now, and a word of it that is not zero.
  bool FindWrittenWord(Gfn& gfn, std::atomic_ref<uint64_t>** word) {
    const GuestReports reports(machine_->memory().slots().front().hva, 1);
    const uint64_t visiting = reports.Read(0).visiting_gpa;
    for (const RamSlot& slot : machine_->memory().slots()) {
      if (slot.kind != abi::RangeKind::kPrecious) continue;
      for (uint64_t at = 0; at < slot.bytes; at += kPageSize) {
        gfn = GfnOf(slot.gpa + at);
        if ((slot.gpa + at).value - visiting < 64 * kPageSize || !IsDirty(gfn)) continue;
        auto* words = static_cast<uint64_t*>(PointerOf(slot.hva + at));
        for (size_t i = 0; i < kPageSize / sizeof(uint64_t); ++i) {
          word_ = std::make_unique<std::atomic_ref<uint64_t>>(words[i]);
          if (word_->load(std::memory_order::relaxed) == 0) continue;
          *word = word_.get();
          return true;
        }
      }
    }
    return false;
  }
  bool IsDirty(Gfn gfn) {
    rcu::ReadScope rcu;
    const auto leaf = machine_->mmu().stage2().Lookup(gfn);
    return leaf.has_value() && leaf->pte.dirty() && leaf->pte.writable();
  }

 private:
  std::unique_ptr<std::atomic_ref<uint64_t>> word_;
};

TEST_F(Corruption, OfAPreciousPageIsABadVerdictThatNamesThePage) {
  ASSERT_NO_FATAL_FAILURE(Start(MachineOptions("stamp", Backing::kMemfd, 1, "off")));
  if (machine_ == nullptr) return;
  Gfn gfn;
  std::atomic_ref<uint64_t>* word = nullptr;
  uint64_t pages = 0;
  ASSERT_TRUE(WaitUntil([&] {
    if (!Becomes([&](const Stats& s) { return s.guest.pages_checked > pages + 500; })) return false;
    EXPECT_TRUE(machine_->Pause().ok());
    if (FindWrittenWord(gfn, &word)) return true;
    EXPECT_TRUE(machine_->Resume().ok());
    pages += 500;
    return false;
  }));
  word->fetch_xor(2, std::memory_order::relaxed);
  GuestReports(machine_->memory().slots().front().hva, 1).RequestStop();
  const absl::Status finished = machine_->Finish();
  EXPECT_TRUE(absl::IsDataLoss(finished)) << finished;
  const std::string place = absl::StrFormat("1 mismatches; the first: gfn %#x word", gfn.value);
  EXPECT_NE(finished.message().find(place), std::string::npos) << finished << "\nnot " << place;
  EXPECT_EQ(machine_->GetStats().guest.verdict, GuestVerdict::kBad);
  EXPECT_EQ(machine_->GetStats().guest.mismatches, 1u);
}

}  // namespace
}  // namespace underfoot::testing
