#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "absl/strings/str_format.h"
#include "tests/control/scratch.h"
#include "vmm/churn/script.h"
#include "vmm/churn/tape.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;

const ScriptMachine kMachine = {uint64_t{64} << 20, Backing::kMemfd, 7, 4, "stamp"};

ScriptedOperation Discard(uint64_t page, ChurnOutcome outcome = ChurnOutcome::kDone) {
  return {.lane = ChurnLane::kPages,
          .step = {.kind = ChurnKind::kDiscard,
                   .due = absl::Microseconds(500),
                   .random = 0xffffffffffffffff},
          .result = {.gpa = Gpa{page << kPageShift}, .bytes = kPageSize, .outcome = outcome}};
}

class ChurnScriptTest : public ::testing::Test {
 protected:
  void Record(const std::vector<ScriptedOperation>& operations) {
    ChurnTape tape;
    ASSERT_TRUE(tape.Record(path_, kMachine).ok());
    ASSERT_TRUE(tape.BeginRecord().ok());
    for (const ScriptedOperation& operation : operations) tape.Done(operation, std::nullopt);
    ASSERT_TRUE(tape.status().ok());
  }
  std::string Content() const {
    std::ifstream file(path_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string ErrorOf(const std::string& content) {
    std::ofstream(path_) << content;
    return std::string(Script::Read(path_).status().message());
  }

  Scratch scratch_;
  const std::string path_ = scratch_ / "churn.jsonl";
};

TEST_F(ChurnScriptTest, WhatWasWrittenIsRead) {
  ScriptedOperation slow = Discard(9, ChurnOutcome::kDeclined);
  slow.lane = ChurnLane::kSlow;
  slow.step.kind = ChurnKind::kCollapse;
  Record({Discard(7), slow});
  const absl::StatusOr<Script> script = Script::Read(path_);
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_EQ(script->machine.memory_bytes, kMachine.memory_bytes);
  EXPECT_EQ(script->machine.backing, Backing::kMemfd);
  ASSERT_EQ(script->operations.size(), 2u);
  EXPECT_EQ(script->operations[0].result, Discard(7).result);
  EXPECT_EQ(script->operations[0].step.random, 0xffffffffffffffff);
  EXPECT_EQ(script->operations[0].step.due, absl::Microseconds(500));
  EXPECT_EQ(script->operations[1].step.kind, ChurnKind::kCollapse);
  EXPECT_EQ(script->operations[1].lane, ChurnLane::kSlow);
  EXPECT_EQ(script->operations[1].result.outcome, ChurnOutcome::kDeclined);
}

TEST_F(ChurnScriptTest, AReplayReportsTheFirstDifference) {
  Record({Discard(1), Discard(2), Discard(3)});
  ChurnTape tape;
  ASSERT_TRUE(tape.Replay(path_, kMachine).ok());
  ASSERT_EQ(tape.OfLane(ChurnLane::kPages).size(), 3u);
  EXPECT_TRUE(tape.OfLane(ChurnLane::kSlow).empty());
  tape.Done(Discard(1), 0);
  tape.Done(Discard(2, ChurnOutcome::kDeclined), 1);
  tape.Done(Discard(4), 2);
  const ReplayStats replay = tape.Replay();
  EXPECT_EQ(replay.recorded, 3u);
  EXPECT_EQ(replay.repeated, 3u);
  EXPECT_EQ(replay.differences, 2u);
  EXPECT_THAT(replay.first, HasSubstr("line 3, at 500us: "));
  EXPECT_THAT(replay.first, HasSubstr("discard of gpa [0x2000, 0x3000): done; this time discard of "
                                      "gpa [0x2000, 0x3000): declined"));
}

TEST_F(ChurnScriptTest, AReplayThatIsCutShortReportsTheLengthOfTheRecord) {
  ScriptedOperation slow = Discard(9);
  slow.lane = ChurnLane::kSlow;
  slow.step.kind = ChurnKind::kFork;
  Record({Discard(1), slow, Discard(2)});
  ChurnTape tape;
  ASSERT_TRUE(tape.Replay(path_, kMachine).ok());
  tape.Done(Discard(1), 0);
  EXPECT_EQ(tape.Replay().recorded, 3u);
  EXPECT_EQ(tape.Replay().repeated, 1u);
}

// The tape of a killed run is never finished.
TEST_F(ChurnScriptTest, WhatWasDoneIsInTheFileAtOnce) {
  ChurnTape tape;
  ASSERT_TRUE(tape.Record(path_, kMachine).ok());
  ASSERT_TRUE(tape.BeginRecord().ok());
  for (uint64_t done = 1; done <= 3; ++done) {
    tape.Done(Discard(done), std::nullopt);
    const absl::StatusOr<Script> script = Script::Read(path_);
    ASSERT_TRUE(script.ok()) << script.status();
    ASSERT_EQ(script->operations.size(), done);
    EXPECT_EQ(script->operations.back().result, Discard(done).result);
  }
}

TEST_F(ChurnScriptTest, ATornLastLineIsLeftOutAndATornLineBeforeOthersIsNamed) {
  Record({Discard(1), Discard(2), Discard(3)});
  const std::string whole = Content();
  const size_t last = whole.rfind('\n', whole.size() - 2) + 1;
  for (size_t bytes = last; bytes < whole.size(); ++bytes) {
    std::ofstream(path_, std::ios::trunc) << whole.substr(0, bytes);
    const absl::StatusOr<Script> script = Script::Read(path_);
    ASSERT_TRUE(script.ok()) << bytes << ": " << script.status();
    EXPECT_EQ(script->operations.size(), 2u) << bytes;
  }
  const size_t middle = whole.find("bytes", whole.find('\n'));
  EXPECT_EQ(
      ErrorOf(whole.substr(0, middle) + "\n" + whole.substr(last)),
      "--replay " + path_ + ", line 2: no record of churn; give a file that --record has written");
}

TEST_F(ChurnScriptTest, AScriptOfAnotherMachineIsRefused) {
  Record({Discard(1)});
  ChurnTape tape;
  EXPECT_THAT(std::string(tape.Replay(path_, {kMachine.memory_bytes, Backing::kAnon}).message()),
              HasSubstr("--memory 65536K --backing memfd"));
  ScriptMachine huge = kMachine;
  huge.huge_pages = HugePages::kThp;
  EXPECT_THAT(std::string(tape.Replay(path_, huge).message()), HasSubstr("--huge-pages off"));
}

TEST_F(ChurnScriptTest, AFileThatIsNoScriptIsNamedWithItsLine) {
  constexpr char kHead[] = R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "anon"})";
  EXPECT_THAT(ErrorOf(""), HasSubstr("line 1: no line is whole"));
  EXPECT_THAT(ErrorOf(kHead), HasSubstr("line 1: no line is whole"));
  EXPECT_THAT(ErrorOf("hello\n"), HasSubstr("line 1: no record of churn"));
  EXPECT_THAT(ErrorOf(std::string(kHead) + "\n{}\n"),
              HasSubstr("line 2: no record of churn: it has no member 'at_us'"));
  EXPECT_THAT(
      ErrorOf(std::string(kHead) + "\n" +
              R"({"at_us":1,"lane":9,"kind":"wp","random":1,"gpa":0,"bytes":1,"outcome":"done"})" +
              "\n"),
      HasSubstr("line 2: lane is 9, and must be from 0 to 2"));
  EXPECT_THAT(ErrorOf("{\"underfoot_churn\": 2, \"memory_bytes\": 1, \"backing\": \"anon\"}\n"),
              HasSubstr("another version"));
  EXPECT_THAT(std::string(Script::Read(scratch_ / "none").status().message()),
              HasSubstr("cannot be read"));
}

TEST_F(ChurnScriptTest, WhatNoRecordHoldsIsRefused) {
  const std::string head = R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "anon"})";
  const auto with = [&](const char* at_us, const char* lane, const char* kind, const char* gpa) {
    return absl::StrFormat(
        R"(%s%c{"at_us":%s,"lane":%s,"kind":"%s","random":1,"gpa":%s,"bytes":4096,"outcome":"done"}%c)",
        head, '\n', at_us, lane, kind, gpa, '\n');
  };
  EXPECT_EQ(ErrorOf(with("5", "0", "wp", "0")), "");
  EXPECT_EQ(ErrorOf(with("5", "2", "fork", "0")), "");
  for (const char* at : {"-1", "1e300", "9223372036854775807", "18446744073709551615", "\"1\""}) {
    EXPECT_THAT(ErrorOf(with(at, "0", "wp", "0")), HasSubstr("which is not a time")) << at;
  }
  EXPECT_THAT(ErrorOf(with("1", "1", "wp", "0")), HasSubstr("another kind's lane"));
  EXPECT_THAT(ErrorOf(with("1", "0", "fork", "0")), HasSubstr("another kind's lane"));
  EXPECT_THAT(ErrorOf(with("1", "-1", "wp", "0")), HasSubstr("lane is -1"));
  EXPECT_THAT(ErrorOf(with("1", "0", "wp", "-4096")),
              HasSubstr("gpa is -4096, and must be a whole number"));
  EXPECT_THAT(ErrorOf(R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "anon",)"
                      "\"huge_pages\": \"4M\"}\n"),
              HasSubstr("huge_pages is \"4M\", and is none of"));
  EXPECT_THAT(ErrorOf(R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "xx"})"
                      "\n"),
              HasSubstr("neither anon nor memfd"));
  EXPECT_THAT(ErrorOf(R"({"underfoot_churn": 1, "memory_bytes": -1, "backing": "anon"})"
                      "\n"),
              HasSubstr("memory_bytes is -1, which is not a size of memory"));
  EXPECT_THAT(ErrorOf("{\"underfoot_churn\": 1, \"memory_bytes\": 4096}\n"),
              HasSubstr("it has no member 'backing'"));
  for (const char* member : {"\"seed\": -1", "\"vcpus\": \"two\"", "\"guest\": 5"}) {
    EXPECT_THAT(ErrorOf(R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "anon", )" +
                        std::string(member) + "}\n"),
                HasSubstr("which "))
        << member;
  }
}

// The memory of the record: 64 KiB.
TEST_F(ChurnScriptTest, AnOperationOutsideOfTheMemoryOrOnPartsOfPagesIsRefused) {
  const auto error = [&](const char* gpa, const char* bytes, const char* outcome) {
    return ErrorOf(absl::StrFormat(
        R"({"underfoot_churn": 1, "memory_bytes": 65536, "backing": "anon"}%c)"
        R"({"at_us":1,"lane":0,"kind":"wp","random":1,"gpa":%s,"bytes":%s,"outcome":"%s"}%c)",
        '\n', gpa, bytes, outcome, '\n'));
  };
  EXPECT_EQ(error("0", "65536", "done"), "");
  EXPECT_EQ(error("61440", "4096", "done"), "");
  EXPECT_EQ(error("4096", "0", "declined"), "") << "no place was found for it";
  EXPECT_THAT(error("4096", "0", "done"), HasSubstr("line 2: bytes is 0"));
  EXPECT_THAT(error("65536", "4096", "done"),
              HasSubstr("line 2: gpa 0x10000 with 4096 bytes lies outside of the memory of 65536"));
  EXPECT_THAT(error("61440", "8192", "done"), HasSubstr("lies outside"));
  EXPECT_THAT(error("4096", "18446744073709547520", "done"), HasSubstr("lies outside"));
  EXPECT_THAT(error("4097", "4096", "done"), HasSubstr("gpa is 4097"));
  EXPECT_THAT(error("4096", "18446744073709551615", "done"),
              HasSubstr("bytes is 18446744073709551615"));
}

TEST_F(ChurnScriptTest, ARecordNamesTheOptionsThatAReplayLacks) {
  Record({Discard(1)});
  const absl::StatusOr<Script> script = Script::Read(path_);
  ASSERT_TRUE(script.ok()) << script.status();
  EXPECT_EQ(script->machine.OptionsMissingFrom(kMachine), "");
  ScriptMachine other = kMachine;
  other.vcpus = 2;
  other.guest = "mixed";
  EXPECT_EQ(script->machine.OptionsMissingFrom(other), "--vcpus 4 --guest stamp");
  other = kMachine;
  other.seed = 8;
  EXPECT_EQ(script->machine.OptionsMissingFrom(other), "--seed 7");
  EXPECT_EQ(ScriptMachine{}.OptionsMissingFrom(other), "") << "an older program's record";
}

TEST_F(ChurnScriptTest, AFifoWithoutAPartnerIsRefusedAndNotWaitedFor) {
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(std::string(Script::Read(path_).status().message()), HasSubstr("not a regular file"));
  ChurnTape tape;
  EXPECT_THAT(std::string(tape.Record(path_, kMachine).message()), HasSubstr("not a regular file"));
}

TEST_F(ChurnScriptTest, AFullDiskIsNamed) {
  ChurnTape tape;
  ASSERT_TRUE(tape.Record("/dev/full", kMachine).ok());
  EXPECT_THAT(std::string(tape.BeginRecord().message()), HasSubstr("No space left on device"));
}

// A run that is refused after its record was opened.
TEST_F(ChurnScriptTest, ARecordThatDoesNotBeginLeavesTheFileAsItWas) {
  std::ofstream(path_) << "precious\n";
  {
    ChurnTape tape;
    ASSERT_TRUE(tape.Record(path_, kMachine).ok());
    tape.Done(Discard(1), std::nullopt);
  }
  EXPECT_EQ(Content(), "precious\n");
  const std::string absent = scratch_ / "absent";
  {
    ChurnTape tape;
    ASSERT_TRUE(tape.Record(absent, kMachine).ok());
    EXPECT_EQ(access(absent.c_str(), F_OK), 0) << "locked against other machines";
  }
  EXPECT_NE(access(absent.c_str(), F_OK), 0);
}

TEST_F(ChurnScriptTest, ALineTooLongForAFileThatMayNotGrowLeavesTheFileAsItWas) {
  std::ofstream(path_) << "precious\n";
  ChurnTape tape;
  ASSERT_TRUE(tape.Record(path_, kMachine).ok());
  absl::Status begun;
  {
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    const auto handler = signal(SIGXFSZ, SIG_IGN);
    const rlimit none{0, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &none), 0);
    begun = tape.BeginRecord();
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
  }
  EXPECT_THAT(std::string(begun.message()), HasSubstr("File too large"));
  EXPECT_EQ(Content(), "precious\n");
}

// The engine may have begun already.
TEST_F(ChurnScriptTest, WhatWasDoneBeforeTheRecordBeginsIsInIt) {
  std::ofstream(path_) << std::string(100000, 'x');
  ChurnTape tape;
  ASSERT_TRUE(tape.Record(path_, kMachine).ok());
  tape.Done(Discard(1), std::nullopt);
  tape.Done(Discard(2), std::nullopt);
  ASSERT_TRUE(tape.BeginRecord().ok());
  tape.Done(Discard(3), std::nullopt);
  const absl::StatusOr<Script> script = Script::Read(path_);
  ASSERT_TRUE(script.ok()) << script.status();
  ASSERT_EQ(script->operations.size(), 3u);
  EXPECT_EQ(script->operations[1].result, Discard(2).result);
}

TEST_F(ChurnScriptTest, ARecordThatWouldOverwriteWhatTheRunReadsIsRefusedByAnyName) {
  const std::string other = scratch_ / "other name";
  std::ofstream(path_) << "a file\n";
  ASSERT_EQ(link(path_.c_str(), other.c_str()), 0);
  RunOptions options;
  options.record_path = other;
  EXPECT_TRUE(CheckRecordIsNoInput(options).ok());
  options.replay_path = path_;
  EXPECT_THAT(std::string(CheckRecordIsNoInput(options).message()),
              HasSubstr("is the file of --replay '" + path_ + "' too"));
  options.replay_path.clear();
  options.disks = {{.path = path_}};
  EXPECT_THAT(std::string(CheckRecordIsNoInput(options).message()), HasSubstr("--disk"));
  options.disks.clear();
  options.guest = path_;
  EXPECT_THAT(std::string(CheckRecordIsNoInput(options).message()), HasSubstr("--guest"));
  options.linux_guest = LinuxOptions{.initrd = path_};
  EXPECT_THAT(std::string(CheckRecordIsNoInput(options).message()), HasSubstr("--kernel"));
  options.guest = scratch_ / "kernel";
  EXPECT_THAT(std::string(CheckRecordIsNoInput(options).message()), HasSubstr("--initrd"));
  options.record_path = scratch_ / "new";
  EXPECT_TRUE(CheckRecordIsNoInput(options).ok());
}

TEST_F(ChurnScriptTest, AFileThatCannotBeWrittenIsNamed) {
  ChurnTape tape;
  EXPECT_THAT(std::string(tape.Record(scratch_ / "no/such", kMachine).message()),
              HasSubstr("no/such cannot be written"));
}

}  // namespace
}  // namespace underfoot::testing
