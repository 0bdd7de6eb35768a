// The working set against the touched pages that the guest itself reports.
//
// Scans are made by hand while the vCPUs stand still. A page at which a vCPU stands at either end
// of a window may or may not be reported; every other page of the precious and the discardable
// slots is compared, and must agree.

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>

#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/machine/machine.h"

namespace underfoot::testing {
namespace {

using Pages = std::set<uint64_t>;  // gfns

class WorkingSetOfAGuest
    : public ::testing::TestWithParam<std::tuple<const char*, Backing, uint32_t>> {
 protected:
  static constexpr uint64_t kVisits = 700;

  void Start(ChurnRates churn = {}) {
    UNDERFOOT_NEEDS_KVM();
    RunOptions options;
    options.guest = std::get<0>(GetParam());
    options.backing = std::get<1>(GetParam());
    options.vcpus = std::get<2>(GetParam());
    options.memory_bytes = uint64_t{36} << 20;
    options.async_write_protect = options.backing == Backing::kAnon;
    options.working_set_period = std::chrono::milliseconds(0);
    options.keep_visits = true;
    options.churn.rates = std::move(churn);
    options.name = "test";
    absl::StatusOr<std::unique_ptr<Machine>> machine =
        Machine::Create(options, [](unsigned, std::string_view) {});
    if (absl::IsPermissionDenied(machine.status()) || absl::IsUnimplemented(machine.status())) {
      UNDERFOOT_SKIP(std::string(machine.status().message()));
    }
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    ASSERT_TRUE(machine_->Start().ok());
  }

  // A word of the system area.
  template <class T>
  std::atomic_ref<T> WordAt(uint64_t gpa) {
    return std::atomic_ref<T>(*static_cast<T*>(PointerOf(*machine_->memory().HvaOf(Gpa{gpa}))));
  }
  uint64_t Visited() {
    uint64_t pages = 0;
    const GuestReports reports(machine_->memory().slots().front().hva, std::get<2>(GetParam()));
    const abi::Report total = reports.Total();
    pages = total.pages_checked + total.pages_written;
    return pages;
  }

  // A window: scanned at its beginning and at its end, with the guest's own notes of it.
  struct Window {
    Pages touched;
    Pages written;
    Pages absent;  // at its beginning
    Pages seen;    // by the scan
    Pages open;    // a vCPU stood there
    uint64_t visits = 0;
  };
  void AddOpen(Pages& open) {
    for (uint32_t vcpu = 0; vcpu < std::get<2>(GetParam()); ++vcpu) {
      const uint64_t gpa =
          WordAt<uint64_t>(abi::ReportGpa(vcpu) + offsetof(abi::Report, visiting_page))
              .load(std::memory_order::relaxed);
      open.insert(gpa / kPageSize);
    }
  }
  template <class Take>
  void ForEachDataPage(const Take& take) {
    for (const RamSlot& slot : machine_->memory().slots()) {
      if (slot.kind != abi::RangeKind::kPrecious && !slot.discardable()) continue;
      for (uint64_t at = 0; at < slot.bytes; at += kPageSize) take(slot.gpa + at, slot.hva + at);
    }
  }
  uint64_t Operations() { return TotalOperations(machine_->GetStats().churn.operations); }
  // At least `operations` of churn happen meanwhile.
  Window RunWindow(uint64_t operations = 0) {
    Window window;
    EXPECT_TRUE(machine_->Pause().ok());
    machine_->working_set()->Scan();
    AddOpen(window.open);
    const absl::StatusOr<Pagemap> pagemap = Pagemap::Open();
    ForEachDataPage([&](Gpa gpa, Hva hva) {
      if (!pagemap->Read(hva).present) window.absent.insert(GfnOf(gpa).value);
    });
    auto epoch = WordAt<uint64_t>(abi::kBootInfoGpa + offsetof(abi::BootInfo, visit_epoch));
    const auto mine = static_cast<uint32_t>(epoch.load(std::memory_order::relaxed) + 1);
    epoch.store(mine, std::memory_order::relaxed);
    const uint64_t before = Visited();
    const uint64_t enough = Operations() + operations;
    EXPECT_TRUE(machine_->Resume().ok());
    EXPECT_TRUE(WaitUntil([&] { return Visited() > before + kVisits && Operations() >= enough; }));
    EXPECT_TRUE(machine_->Pause().ok());
    AddOpen(window.open);
    window.visits = Visited() - before;
    machine_->working_set()->Scan();
    ForEachDataPage([&](Gpa gpa, Hva hva) {
      const uint64_t gfn = GfnOf(gpa).value;
      const uint64_t at = abi::VisitGpa(gpa.value);
      if (WordAt<uint32_t>(at).load(std::memory_order::relaxed) == mine) window.touched.insert(gfn);
      if (WordAt<uint32_t>(at + 4).load(std::memory_order::relaxed) == mine) {
        window.written.insert(gfn);
      }
      if (machine_->working_set()->TouchedLately(hva)) window.seen.insert(gfn);
    });
    EXPECT_TRUE(machine_->Resume().ok());
    return window;
  }

  // What the scan must have seen: on a memfd all that was touched; of private memory what was
  // written, and what was not there before it was touched.
  static Pages Expected(const Window& window, Backing backing) {
    if (backing == Backing::kMemfd) return window.touched;
    Pages expected = window.written;
    for (const uint64_t gfn : window.touched) {
      if (window.absent.contains(gfn)) expected.insert(gfn);
    }
    return expected;
  }
  static Pages Without(const Pages& all, const Pages& some, const Pages& open) {
    Pages rest;
    for (const uint64_t gfn : all) {
      if (!some.contains(gfn) && !open.contains(gfn)) rest.insert(gfn);
    }
    return rest;
  }

  void FinishWell() {
    const absl::Status finished = machine_->Finish();
    EXPECT_TRUE(finished.ok()) << finished;
    EXPECT_EQ(machine_->GetStats().audit.unexplained, 0u);
  }

  std::unique_ptr<Machine> machine_;
};

TEST_P(WorkingSetOfAGuest, EqualsWhatTheGuestReportsAsTouched) {
  ASSERT_NO_FATAL_FAILURE(Start());
  if (machine_ == nullptr) return;
  const Backing backing = std::get<1>(GetParam());
  uint64_t compared = 0;
  for (int i = 0; i < 4; ++i) {
    const Window window = RunWindow();
    const Pages expected = Expected(window, backing);
    EXPECT_EQ(Without(expected, window.seen, window.open), Pages()) << "missed, window " << i;
    EXPECT_EQ(Without(window.seen, expected, window.open), Pages()) << "invented, window " << i;
    EXPECT_LE(window.open.size(), 2 * std::get<2>(GetParam()));
    compared += expected.size();
  }
  EXPECT_GT(compared, 300u);
  FinishWell();
}

// Churn takes pages away between the touch and the scan, and touches some itself: nothing that the
// guest touched may be missed. On a memfd that holds whatever takes them. A private page that was
// written and discarded has no trace left, unless it came in again.
TEST_P(WorkingSetOfAGuest, MissesNothingWhileItsMemoryIsChurned) {
  const Backing backing = std::get<1>(GetParam());
  ASSERT_NO_FATAL_FAILURE(Start(backing == Backing::kMemfd ? ChurnRates{{ChurnKind::kZap, 300},
                                                                        {ChurnKind::kPunch, 300},
                                                                        {ChurnKind::kDiscard, 200},
                                                                        {ChurnKind::kWp, 100},
                                                                        {ChurnKind::kMemslot, 5},
                                                                        {ChurnKind::kProtect, 50}}
                                                           : ChurnRates{{ChurnKind::kProtect, 200},
                                                                        {ChurnKind::kCold, 200},
                                                                        {ChurnKind::kMove, 200}}));
  if (machine_ == nullptr) return;
  uint64_t compared = 0;
  for (int i = 0; i < 4; ++i) {
    const Window window = RunWindow(6);
    const Pages& expected = backing == Backing::kMemfd ? window.touched : window.written;
    EXPECT_EQ(Without(expected, window.seen, window.open), Pages()) << "missed, window " << i;
    compared += expected.size();
  }
  EXPECT_GT(compared, 300u);
  FinishWell();
}

std::string NameOfGuest(const ::testing::TestParamInfo<WorkingSetOfAGuest::ParamType>& info) {
  return std::string(std::get<0>(info.param)) + "_" +
         std::string(BackingName(std::get<1>(info.param))) + "_" +
         std::to_string(std::get<2>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Machines, WorkingSetOfAGuest,
                         ::testing::Combine(::testing::Values("stamp", "mixed"),
                                            ::testing::Values(Backing::kAnon, Backing::kMemfd),
                                            ::testing::Values(1u, 2u)),
                         NameOfGuest);

}  // namespace
}  // namespace underfoot::testing
