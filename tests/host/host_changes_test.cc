// Changes of the host on files of our own, and, for root, on the real host.

#include "vmm/host/host_changes.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/control/scratch.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/host/knob.h"
#include "vmm/host/swap_file.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  // What a process does that is killed in the middle of it.
  void InAKilledProcess(const std::function<void(HostChanges&)>& change) {
    const pid_t child = fork();
    if (child == 0) {
      auto* changes = new HostChanges([](std::string_view) {}, places_);  // never put back
      change(*changes);
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
    HostChanges changes(Announce(), places_);
    ASSERT_TRUE(changes.SetKnob(knob_, "1").ok());
    EXPECT_EQ(Knob(), "1");
    EXPECT_EQ(Journals(), 1U);
    EXPECT_THAT(announced_, ElementsAre("host: " + knob_ + " from 0 to 1"));
  }
  EXPECT_EQ(Knob(), "0");
  EXPECT_EQ(Journals(), 0U);
  EXPECT_EQ(announced_.size(), 2U);
}

TEST_F(HostChangesTest, AKnobThatHasTheValueIsLeftAlone) {
  HostChanges changes(Announce(), places_);
  ASSERT_TRUE(changes.SetKnob(knob_, "0").ok());
  EXPECT_THAT(announced_, IsEmpty());
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(HostChangesTest, WhatAKilledRunLeftIsRestoredOnce) {
  InAKilledProcess([&](HostChanges& changes) { static_cast<void>(changes.SetKnob(knob_, "7")); });
  EXPECT_EQ(Knob(), "7");
  EXPECT_THAT(HostJournal::Leftovers(places_), ElementsAre(knob_ + " was 0"));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre(knob_ + " was 0"));
  EXPECT_EQ(Knob(), "0");
  EXPECT_THAT(HostJournal::Leftovers(places_), IsEmpty());
}

// An init of a container may never ask.
TEST_F(HostChangesTest, AKilledRunThatNobodyHasWaitedForIsALeftover) {
  const pid_t child = fork();
  if (child == 0) {
    auto* changes = new HostChanges([](std::string_view) {}, places_);
    static_cast<void>(changes->SetKnob(knob_, "7"));
    kill(getpid(), SIGKILL);
  }
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_THAT(HostJournal::Leftovers(places_), ElementsAre(knob_ + " was 0"));
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
}

TEST_F(HostChangesTest, ALivingRunIsNoLeftover) {
  HostChanges changes(Announce(), places_);
  ASSERT_TRUE(changes.SetKnob(knob_, "1").ok());
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_EQ(Knob(), "1");
}

TEST_F(HostChangesTest, TheLastOfTwoRunsPutsBackWhatTheFirstFound) {
  auto first = std::make_unique<HostChanges>(Announce(), places_);
  ASSERT_TRUE(first->SetKnob(knob_, "1").ok());
  int go[2];
  int ready[2];
  ASSERT_EQ(pipe(go) | pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    HostChanges second([](std::string_view) {}, places_);
    char byte = second.SetKnob(knob_, "1").ok() ? 1 : 0;
    static_cast<void>(!write(ready[1], &byte, 1));
    static_cast<void>(!read(go[0], &byte, 1));
    _exit(second.PutBack().ok() ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 1);
  first.reset();
  EXPECT_EQ(Knob(), "1") << "the other run still needs it";
  ASSERT_EQ(write(go[1], &byte, 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(Knob(), "0");
  for (const int fd : {go[0], go[1], ready[0], ready[1]}) close(fd);
}

TEST_F(HostChangesTest, AJournalThatCannotBeWrittenForbidsTheChange) {
  std::ofstream(scratch_ / "file") << "";
  places_.journal = scratch_ / "file" + "/journal";
  HostChanges changes(Announce(), places_);
  EXPECT_THAT(std::string(changes.SetKnob(knob_, "1").message()), HasSubstr("need root"));
  EXPECT_EQ(Knob(), "0");
}

TEST_F(HostChangesTest, AFileThatIsNoJournalIsLeftAlone) {
  std::filesystem::create_directories(journal_);
  std::ofstream(journal_ + "/1.json") << "{\"pid\": \"x\"";
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
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
      HostChanges changes([](std::string_view) {}, places_);
      static_cast<void>(changes.AddSwap(uint64_t{1} << 20));
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
  EXPECT_THAT(HostJournal::Leftovers(places_), IsEmpty()) << "nothing was made yet";
  MakeDevice("1");
  EXPECT_THAT(HostJournal::Leftovers(places_), ElementsAre("device /dev/zram1"));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre("device /dev/zram1"));
  EXPECT_EQ(Removed(), "1");
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(ZramTest, ADeviceOfAnotherTimeMayBeSomebodyElsesAndIsLeftAlone) {
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

TEST_F(ZramTest, ADeviceWithASizeIsSomebodyElses) {
  KillARunThatWaitsForItsDevice();
  MakeDevice("0", "4096");
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, IsEmpty());
  EXPECT_THAT(restored->left_alone, IsEmpty());
  EXPECT_EQ(Removed(), "");
}

TEST_F(ZramTest, ADeviceThatALivingRunHasMadeIsItsOwn) {
  KillARunThatWaitsForItsDevice();
  HostJournal living(places_);
  ASSERT_TRUE(living.Write({HostChangeKind::kZram, "0", ""}).ok());
  MakeDevice("0");
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_EQ(Removed(), "");
  ASSERT_TRUE(living.Withdraw().ok());
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
      HostChanges changes(Announce(), places_);
      const absl::Status added = changes.AddSwap(uint64_t{16} << 20);
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
  EXPECT_THAT(HostJournal::Leftovers(places_), ElementsAre(HasSubstr("underfoot-swap-")));
  const auto restored = HostJournal::RestoreLeftovers(places_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(restored->put_back, ElementsAre(HasSubstr("underfoot-swap-")));
  EXPECT_TRUE(std::filesystem::is_empty(places_.swap_files));
  EXPECT_EQ(Swaps(), before);
}

TEST_F(HostChangesTest, ASwapFileThatIsHeldIsNoLeftover) {
  const absl::StatusOr<UniqueFd> held = SwapFile::Make(places_, uint64_t{1} << 20);
  ASSERT_TRUE(held.ok()) << held.status();
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(SwapFile::PathOf(places_)));
}

TEST_F(HostChangesTest, WhatIsNoSwapFileOfOursIsLeftAlone) {
  Write(places_.swap_files + "/somebody-elses", "");
  Write(scratch_ / "linked", "");
  std::filesystem::create_hard_link(scratch_ / "linked", places_.swap_files + "/underfoot-swap-1");
  std::filesystem::create_symlink(scratch_ / "linked", places_.swap_files + "/underfoot-swap-2");
  std::filesystem::create_directory(places_.swap_files + "/underfoot-swap-3");
  EXPECT_THAT(HostJournal::RestoreLeftovers(places_)->put_back, IsEmpty());
  EXPECT_TRUE(std::filesystem::exists(scratch_ / "linked"));
}

}  // namespace
}  // namespace underfoot::testing
