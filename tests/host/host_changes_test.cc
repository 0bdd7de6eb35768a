// Changes of the host on files of our own, and, for root, on the real host.

#include "vmm/host/host_changes.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/control/scratch.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/host/knob.h"
#include "vmm/host/swap_file.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class HostChangesTest : public ::testing::Test {
 protected:
  HostChangesTest() : journal_(scratch_ / "journal"), knob_(scratch_ / "knob") {
    Write(knob_, "0");
    std::filesystem::create_directories(places_.swap_files);
  }

  static void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text << "\n";
  }

  HostChanges::Announce Announce() {
    return [this](std::string_view line) { announced_.emplace_back(line); };
  }
  std::string Knob() const { return ReadKnob(knob_).value_or("unreadable"); }
  size_t Journals() const {
    std::error_code error;
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(journal_, error),
                                             std::filesystem::directory_iterator()));
  }
  std::unique_ptr<HostChanges> Take() {
    absl::StatusOr<std::unique_ptr<HostChanges>> changes = HostChanges::Take(Announce(), places_);
    EXPECT_TRUE(changes.ok()) << changes.status();
    return changes.ok() ? *std::move(changes) : nullptr;
  }
  static void MakeSwapSpace(const std::string& path) {
    std::ofstream(path) << std::string(kSwapHeaderBytes - kSwapSignature.size(), '\0')
                        << kSwapSignature;
  }
  // What a process does that is killed in the middle of it.
  void InAKilledProcess(const std::function<void(HostChanges&)>& change) {
    const pid_t child = fork();
    if (child == 0) {
      change(*Take().release());  // never put back
      kill(getpid(), SIGKILL);
    }
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
  }

  Scratch scratch_;
  const std::string journal_;
  const std::string knob_;
  // Without zram devices, until a test makes what stands for them.
  HostPlaces places_ = {.journal = journal_,
                        .swap_files = scratch_ / "swap",
                        .zram_control = scratch_ / "zram-control",
                        .block = scratch_ / "block",
                        .devices = scratch_ / "dev"};
  std::vector<std::string> announced_;
};

TEST_F(HostChangesTest, AKnobIsAnnouncedSetAndPutBack) {
  {
    const std::unique_ptr<HostChanges> changes = Take();
    ASSERT_TRUE(changes->SetKnob(knob_, "1").ok());
    EXPECT_EQ(Knob(), "1");
    EXPECT_EQ(Journals(), 1U);
    EXPECT_THAT(announced_, ElementsAre("host: " + knob_ + " from 0 to 1"));
  }
  EXPECT_EQ(Knob(), "0");
  EXPECT_EQ(Journals(), 0U);
  EXPECT_EQ(announced_.size(), 2U);
}

TEST_F(HostChangesTest, AKnobThatHasTheValueIsLeftAlone) {
  const std::unique_ptr<HostChanges> changes = Take();
  ASSERT_TRUE(changes->SetKnob(knob_, "0").ok());
  EXPECT_THAT(announced_, IsEmpty());
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(HostChangesTest, WhatAKilledRunLeftIsRestoredOnce) {
  InAKilledProcess([&](HostChanges& changes) { static_cast<void>(changes.SetKnob(knob_, "7")); });
  EXPECT_EQ(Knob(), "7");
  EXPECT_THAT(*HostJournal::Leftovers(places_), ElementsAre(knob_ + " was 0"));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre(knob_ + " was 0"));
  EXPECT_EQ(Knob(), "0");
  EXPECT_THAT(*HostJournal::Leftovers(places_), IsEmpty());
}

// An init of a container may never ask.
TEST_F(HostChangesTest, AKilledRunThatIsAZombieIsALeftover) {
  const pid_t child = fork();
  if (child == 0) {
    static_cast<void>(Take().release()->SetKnob(knob_, "7"));
    kill(getpid(), SIGKILL);
  }
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_THAT(*HostJournal::Leftovers(places_), ElementsAre(knob_ + " was 0"));
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(HostChangesTest, ALivingRunIsNoLeftover) {
  const std::unique_ptr<HostChanges> changes = Take();
  ASSERT_TRUE(changes->SetKnob(knob_, "1").ok());
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_EQ(Knob(), "1");
}

// In another process, which is forked: it inherits the first one's lock, and must not count as it.
TEST_F(HostChangesTest, OneRunAtATimeMayChangeTheHostAndASecondGetsThePidOfTheFirst) {
  std::unique_ptr<HostChanges> first = Take();
  const std::string pid = absl::StrFormat("pid %d)", getpid());
  const pid_t child = fork();
  if (child == 0) {
    const auto second = HostChanges::Take([](std::string_view) {}, places_);
    const bool refused = absl::IsAlreadyExists(second.status());
    _exit(refused && std::string(second.status().message()).find(pid) != std::string::npos ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A child of the run that lives on has a copy of the descriptor.
TEST_F(HostChangesTest, TheLockEndsWithTheRunAlsoWhereAChildLivesOn) {
  std::unique_ptr<HostChanges> first = Take();
  const pid_t child = fork();
  if (child == 0) {
    pause();
    _exit(0);
  }
  first.reset();
  EXPECT_NE(Take(), nullptr);
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

// Each sees the host as it was, for as long as it has the leave.
TEST_F(HostChangesTest, RunsThatEndTogetherLeaveTheHostAsItWas) {
  constexpr int kRuns = 3;
  constexpr int kRounds = 50;
  std::array<pid_t, kRuns> runs{};
  for (pid_t& run : runs) {
    run = fork();
    if (run != 0) continue;
    for (int round = 0; round < kRounds; ++round) {
      auto changes = HostChanges::Take([](std::string_view) {}, places_);
      if (absl::IsAlreadyExists(changes.status())) continue;
      if (!changes.ok() || Knob() != "0") _exit(1);
      if (!(*changes)->SetKnob(knob_, "1").ok() || !(*changes)->PutBack().ok()) _exit(2);
    }
    _exit(0);
  }
  for (const pid_t run : runs) {
    int status = 0;
    ASSERT_EQ(waitpid(run, &status, 0), run);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(Knob(), "0");
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(HostChangesTest, AChangeThatCouldNotBeMadeIsWithdrawn) {
  const std::unique_ptr<HostChanges> changes = Take();
  EXPECT_FALSE(changes->SetKnob("/proc/version", "7").ok());
  EXPECT_EQ(Journals(), 0U);
  Write(SwapFile::PathOf(places_), "in the way");
  EXPECT_FALSE(changes->AddSwap(uint64_t{1} << 20).ok());
  EXPECT_EQ(Journals(), 0U);
  EXPECT_TRUE(changes->PutBack().ok());
  EXPECT_TRUE(std::filesystem::exists(SwapFile::PathOf(places_))) << "it is not ours";
}

TEST_F(HostChangesTest, AJournalThatCannotBeWrittenIsNamedAndOnlyTheLackOfARightAsksForRoot) {
  std::ofstream(scratch_ / "file") << "";
  places_.journal = scratch_ / "file" + "/journal";
  const auto changes = HostChanges::Take(Announce(), places_);
  const std::string why(changes.status().message());
  EXPECT_THAT(why, AllOf(HasSubstr(places_.journal + ": Not a directory"), HasSubstr("writable"),
                         Not(HasSubstr("root"))));
  if (geteuid() != 0) return;
  places_.journal = journal_;
  std::filesystem::create_directories(journal_);
  std::filesystem::permissions(journal_, std::filesystem::perms::owner_all);
  const pid_t child = fork();
  if (child == 0) {
    if (setresuid(65534, 65534, 65534) != 0) _exit(2);
    const auto refused = HostChanges::Take([](std::string_view) {}, places_);
    const bool reported = !HostJournal::Leftovers(places_).ok();  // it cannot be read
    const bool asks =
        std::string(refused.status().message()).find("run as root") != std::string::npos;
    _exit(absl::IsPermissionDenied(refused.status()) && asks && reported ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(HostChangesTest, AJournalThatCannotBeReadIsReportedAndKept) {
  std::filesystem::create_directories(journal_);
  std::ofstream(journal_ + "/changes.json") << "{\"changes\": [{\"kind\"";
  EXPECT_THAT(std::string(HostJournal::Leftovers(places_).status().message()),
              HasSubstr("/changes.json"));
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->left_alone,
              ElementsAre(HasSubstr("/changes.json")));
  EXPECT_FALSE(HostChanges::Take(Announce(), places_).ok()) << "it would be overwritten";
  EXPECT_EQ(Journals(), 1U);
}

TEST_F(HostChangesTest, AKnobOfChoicesHoldsTheChosen) {
  std::ofstream(knob_) << "always [madvise] never\n";
  EXPECT_EQ(Knob(), "madvise");
}

// A kernel that makes zram devices, as far as files can be one.
class ZramTest : public HostChangesTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(places_.zram_control);
    ASSERT_EQ(mkfifo(HotAdd().c_str(), 0600), 0);
    Write(places_.zram_control + "/hot_remove", "");
  }

  std::string HotAdd() const { return places_.zram_control + "/hot_add"; }
  std::string Removed() const { return *ReadKnob(places_.zram_control + "/hot_remove"); }
  void MakeDevice(const std::string& number, const std::string& size = "0") {
    Write(places_.block + "/zram" + number + "/disksize", size);
    Write(places_.devices + "/zram" + number, "");
  }
  // A run that is killed while the kernel makes its device.
  void KillARunThatWaitsForItsDevice() {
    const pid_t child = fork();
    if (child == 0) {
      static_cast<void>(Take()->AddSwap(uint64_t{1} << 20));
      _exit(1);
    }
    UniqueFd kernel;
    EXPECT_TRUE(WaitUntil([&] {
      kernel.Reset(open(HotAdd().c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
      return kernel.valid();  // it is being read
    }));
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
  }
};

TEST_F(ZramTest, ADeviceIsInTheJournalBeforeItIsMade) {
  MakeDevice("0", "4096");
  KillARunThatWaitsForItsDevice();
  EXPECT_THAT(*HostJournal::Leftovers(places_), IsEmpty()) << "nothing was made yet";
  MakeDevice("1");
  EXPECT_THAT(*HostJournal::Leftovers(places_), ElementsAre("device /dev/zram1"));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre("device /dev/zram1"));
  EXPECT_EQ(Removed(), "1");
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(ZramTest, ADeviceOfAnotherTimeIsLeftAlone) {
  KillARunThatWaitsForItsDevice();
  MakeDevice("0");
  const auto now = std::filesystem::file_time_type::clock::now();
  std::filesystem::last_write_time(places_.devices + "/zram0", now + std::chrono::hours(1));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, IsEmpty());
  EXPECT_THAT(restored->left_alone, ElementsAre(HasSubstr("echo 0 > " + places_.zram_control)));
  EXPECT_EQ(Removed(), "");
  EXPECT_EQ(Journals(), 0U) << "it is said once";
}

TEST_F(ZramTest, ADeviceWithASizeIsLeftAlone) {
  KillARunThatWaitsForItsDevice();
  MakeDevice("0", "4096");
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, IsEmpty());
  EXPECT_THAT(restored->left_alone, IsEmpty());
  EXPECT_EQ(Removed(), "");
}

// By name: how much of each is in use is up to the whole host.
std::set<std::string> Swaps() {
  std::ifstream file("/proc/swaps");
  std::set<std::string> names;
  std::string line;
  std::getline(file, line);  // the heading
  while (std::getline(file, line)) names.insert(line.substr(0, line.find_first_of(" \t")));
  return names;
}

// The first time with a zram device, where the kernel has them; the second with a file.
TEST_F(HostChangesTest, SwapSpaceComesAndGoes) {
  UNDERFOOT_CHANGES_THE_HOST();
  const std::set<std::string> before = Swaps();
  const HostPlaces files = places_;
  places_ = {.journal = journal_, .swap_files = files.swap_files};
  for (int i = 0; i < 2; ++i, places_ = files) {
    {
      const std::unique_ptr<HostChanges> changes = Take();
      const absl::Status added = changes->AddSwap(uint64_t{16} << 20);
      if (geteuid() != 0 || !added.ok()) {
        GTEST_SKIP() << "no swap space can be added here: " << added;
      }
      EXPECT_NE(Swaps(), before);
    }
    EXPECT_EQ(Swaps(), before);
    InAKilledProcess(
        [&](HostChanges& changes) { static_cast<void>(changes.AddSwap(uint64_t{16} << 20)); });
    EXPECT_NE(Swaps(), before);
    EXPECT_TRUE(HostJournal::RestoreLeftovers(places_).ok());
    EXPECT_EQ(Swaps(), before);
    EXPECT_TRUE(std::filesystem::is_empty(places_.swap_files));
  }
}

// As after a reboot, which takes the journal and leaves the file.
TEST_F(HostChangesTest, ASwapFileIsFoundWithoutItsJournal) {
  UNDERFOOT_CHANGES_THE_HOST();
  if (geteuid() != 0) GTEST_SKIP() << "swapon is root's";
  const std::set<std::string> before = Swaps();
  InAKilledProcess(
      [&](HostChanges& changes) { static_cast<void>(changes.AddSwap(uint64_t{1} << 20)); });
  EXPECT_FALSE(std::filesystem::is_empty(places_.swap_files));
  std::filesystem::remove_all(journal_);
  EXPECT_THAT(*HostJournal::Leftovers(places_), ElementsAre(HasSubstr("underfoot-swap-")));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre(HasSubstr("underfoot-swap-")));
  EXPECT_TRUE(std::filesystem::is_empty(places_.swap_files));
  EXPECT_EQ(Swaps(), before);
}

TEST_F(HostChangesTest, ASwapFileThatIsHeldIsNoLeftover) {
  const absl::StatusOr<UniqueFd> held = SwapFile::Make(places_, uint64_t{1} << 20);
  ASSERT_TRUE(held.ok()) << held.status();
  MakeSwapSpace(SwapFile::PathOf(places_));
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(SwapFile::PathOf(places_)));
}

TEST_F(HostChangesTest, ANameThatTheProgramDoesNotMakeIsNotItsSwapFile) {
  std::set<std::string> others;
  for (const char* name : {"benchmark-results.txt", "007", "-1", "", "12x", "1.bak"}) {
    MakeSwapSpace(*others.insert(places_.swap_files + "/underfoot-swap-" + name).first);
  }
  const std::string ours = places_.swap_files + "/underfoot-swap-4711";
  MakeSwapSpace(ours);
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, ElementsAre("file " + ours));
  EXPECT_FALSE(std::filesystem::exists(ours));
  for (const std::string& other : others) EXPECT_TRUE(std::filesystem::exists(other)) << other;
}

TEST_F(HostChangesTest, AFileWithoutTheSignatureOfSwapSpaceIsNotOurs) {
  const std::string notes = places_.swap_files + "/underfoot-swap-4711";
  std::ofstream(notes) << std::string(uint64_t{2} * kSwapHeaderBytes, 'n');
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(notes));
}

TEST_F(HostChangesTest, AFileThatIsNotOurSwapFileIsLeftAlone) {
  Write(places_.swap_files + "/somebody-elses", "");
  MakeSwapSpace(scratch_ / "linked");
  std::filesystem::create_hard_link(scratch_ / "linked", places_.swap_files + "/underfoot-swap-1");
  std::filesystem::create_symlink(scratch_ / "linked", places_.swap_files + "/underfoot-swap-2");
  std::filesystem::create_directory(places_.swap_files + "/underfoot-swap-3");
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(scratch_ / "linked"));
}

}  // namespace
}  // namespace underfoot::testing
