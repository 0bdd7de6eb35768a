// Changes of the host on files of our own, and, for root, on the real host.

#include "vmm/host/host_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/control/scratch.h"
#include "tests/support/skip.h"
#include "vmm/host/knob.h"

namespace underfoot::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class HostChangesTest : public ::testing::Test {
 protected:
  HostChangesTest() : journal_(scratch_ / "journal"), knob_(scratch_ / "knob") {
    std::ofstream(knob_) << "0\n";
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
      auto* changes = new HostChanges([](std::string_view) {}, journal_);  // never put back
      change(*changes);
      kill(getpid(), SIGKILL);
    }
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
  }

  Scratch scratch_;
  const std::string journal_;
  const std::string knob_;
  std::vector<std::string> announced_;
};

TEST_F(HostChangesTest, AKnobIsAnnouncedSetAndPutBack) {
  {
    HostChanges changes(Announce(), journal_);
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
  HostChanges changes(Announce(), journal_);
  ASSERT_TRUE(changes.SetKnob(knob_, "0").ok());
  EXPECT_THAT(announced_, IsEmpty());
  EXPECT_EQ(Journals(), 0U);
}

TEST_F(HostChangesTest, WhatAKilledRunLeftIsRestoredOnce) {
  InAKilledProcess([&](HostChanges& changes) { static_cast<void>(changes.SetKnob(knob_, "7")); });
  EXPECT_EQ(Knob(), "7");
  EXPECT_THAT(HostJournal::Leftovers(journal_), ElementsAre(knob_ + " was 0"));
  const auto restored = HostJournal::RestoreLeftovers(journal_);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_THAT(*restored, ElementsAre(knob_ + " was 0"));
  EXPECT_EQ(Knob(), "0");
  EXPECT_THAT(HostJournal::Leftovers(journal_), IsEmpty());
}

TEST_F(HostChangesTest, ALivingRunIsNoLeftover) {
  HostChanges changes(Announce(), journal_);
  ASSERT_TRUE(changes.SetKnob(knob_, "1").ok());
  EXPECT_THAT(HostJournal::RestoreLeftovers(journal_).value(), IsEmpty());
  EXPECT_EQ(Knob(), "1");
}

TEST_F(HostChangesTest, TheLastOfTwoRunsPutsBackWhatTheFirstFound) {
  auto first = std::make_unique<HostChanges>(Announce(), journal_);
  ASSERT_TRUE(first->SetKnob(knob_, "1").ok());
  int go[2];
  int ready[2];
  ASSERT_EQ(pipe(go) | pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    HostChanges second([](std::string_view) {}, journal_);
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
  HostChanges changes(Announce(), scratch_ / "file" + "/journal");
  EXPECT_THAT(std::string(changes.SetKnob(knob_, "1").message()), HasSubstr("need root"));
  EXPECT_EQ(Knob(), "0");
}

TEST_F(HostChangesTest, AFileThatIsNoJournalIsLeftAlone) {
  std::filesystem::create_directories(journal_);
  std::ofstream(journal_ + "/1.json") << "{\"pid\": \"x\"";
  EXPECT_THAT(HostJournal::RestoreLeftovers(journal_).value(), IsEmpty());
  EXPECT_EQ(Journals(), 1U);
}

TEST_F(HostChangesTest, AKnobOfChoicesHoldsTheChosen) {
  std::ofstream(knob_) << "always [madvise] never\n";
  EXPECT_EQ(Knob(), "madvise");
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

TEST_F(HostChangesTest, SwapSpaceComesAndGoes) {
  UNDERFOOT_CHANGES_THE_HOST();
  const std::set<std::string> before = Swaps();
  {
    HostChanges changes(Announce(), journal_);
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
  EXPECT_TRUE(HostJournal::RestoreLeftovers(journal_).ok());
  EXPECT_EQ(Swaps(), before);
}

}  // namespace
}  // namespace underfoot::testing
