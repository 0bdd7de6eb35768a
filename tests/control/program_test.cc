// The whole command line against a live server: what is printed where, and the exit code.

#include "vmm/cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <sstream>
#include <streambuf>
#include <thread>

#include "absl/strings/str_split.h"
#include "tests/control/fake_target.h"
#include "tests/control/scratch.h"
#include "tests/support/wait_until.h"
#include "vmm/base/unique_fd.h"
#include "vmm/control/json.h"
#include "vmm/control/listener.h"
#include "vmm/control/server.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct Result {
  int exit = -1;
  std::string out;
  std::string err;
};

class ProgramTest : public ::testing::Test {
 protected:
  ProgramTest() {
    environment_.xdg_runtime_dir = scratch_ / "xdg";
    environment_.uid = geteuid();
    environment_.run_user = scratch_ / "run";
    environment_.tmp = scratch_ / "tmp";
    // The server is started at an explicit path, whose directory must exist.
    std::filesystem::create_directories(environment_.xdg_runtime_dir + "/underfoot");
    std::filesystem::permissions(environment_.xdg_runtime_dir + "/underfoot",
                                 std::filesystem::perms::owner_all);
  }

  std::unique_ptr<ControlServer> Serve(const std::string& name) {
    auto server = ControlServer::Start(&target_, {.path = DefaultSocketPath(name, environment_)});
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? *std::move(server) : nullptr;
  }

  Result Run(const std::vector<std::string>& arguments) {
    std::ostringstream out;
    std::ostringstream err;
    Result result;
    result.exit = RunProgram(arguments, environment_, {.out = out, .err = err},
                             [this](const RunOptions& options) {
                               ran_ = options;
                               return 42;
                             });
    result.out = out.str();
    result.err = err.str();
    return result;
  }

  // Until the machine has no more events, and ends.
  Result Follow(const std::vector<std::string>& arguments) {
    auto server = Serve("vm-1");
    const uint64_t asked = target_.events_asked();
    Result result;
    std::thread follower([&] { result = Run(arguments); });
    EXPECT_TRUE(WaitUntil([&] { return target_.events_asked() >= asked + 2; }));
    server.reset();
    follower.join();
    return result;
  }

  Scratch scratch_;
  SocketEnvironment environment_;
  FakeTarget target_;
  std::optional<RunOptions> ran_;
};

TEST_F(ProgramTest, RunGetsItsOptionsAndGivesTheExitCode) {
  const Result result = Run({"run", "--vcpus", "3"});
  EXPECT_EQ(result.exit, 42);
  ASSERT_TRUE(ran_.has_value());
  EXPECT_EQ(ran_->vcpus, 3U);
}

TEST_F(ProgramTest, AWrongCommandLineIsOneLineAndExit2) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--frob"},
                                                    {"run", "--frob"},
                                                    {"run", "--memory", "0"},
                                                    {"run", "--guest", "/no/such.elf"},
                                                    {"stage2", "x"},
                                                    {}}) {
    const Result result = Run(arguments);
    EXPECT_EQ(result.exit, 2);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, StartsWith("underfoot: "));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_FALSE(ran_.has_value());
  }
}

TEST_F(ProgramTest, ARunWhoseCommandLineIsWrongPrintsTheJsonOfARefusalToo) {
  const Result result = Run({"run", "--json", "--vcpus", "0"});
  EXPECT_EQ(result.exit, 2);
  const Json json = ParseJson(result.out);
  EXPECT_EQ(json["passed"], false);
  EXPECT_EQ(json["run"]["command_line"], "underfoot run --json --vcpus 0");
  EXPECT_THAT(json["problems"][0].get<std::string>(), HasSubstr("from 1 to 32"));
  EXPECT_THAT(Run({"stats", "--json", "--frob"}).out, IsEmpty()) << "no run";
}

// 1 would be the code of a run whose result is wrong.
TEST_F(ProgramTest, WaitingForAMachineThatDoesNotRunIsExit2) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"wait"},
                                                    {"quit", "--wait"},
                                                    {"wait", "--control", "./none"},
                                                    {"quit", "--wait", "--control", "./none"}}) {
    EXPECT_EQ(Run(arguments).exit, 2);
  }
  EXPECT_EQ(Run({"quit"}).exit, 1);
}

// Gives these replies, one to each connection, and ends.
class ScriptedMachine {
 public:
  ScriptedMachine(const std::string& path, std::vector<std::string> replies) {
    auto listener = UnixListener::Bind(path);
    EXPECT_TRUE(listener.ok()) << listener.status();
    thread_ = std::thread([listening = *std::move(listener), texts = std::move(replies)] {
      for (const std::string& text : texts) {
        // A client that goes early does not fetch all replies.
        pollfd waiting = {listening->fd(), POLLIN, 0};
        if (poll(&waiting, 1, 5000) <= 0) return;
        const UniqueFd fd(accept(listening->fd(), nullptr, nullptr));
        std::array<char, 1000> request{};
        static_cast<void>(recv(fd.get(), request.data(), request.size(), 0));
        static_cast<void>(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL));
      }
    });
  }
  ~ScriptedMachine() { thread_.join(); }

 private:
  std::thread thread_;
};

TEST_F(ProgramTest, AMachineWithoutAFreeConnectionIsWaitedFor) {
  const std::string busy =
      "HTTP/1.1 503 Service Unavailable\r\n\r\n"
      R"({"error":{"status":503,"message":"all 32 connections are in use; try again"}})";
  const std::string runs =
      "HTTP/1.1 200 OK\r\n\r\n"
      R"({"name":"vm-1","result":null})";
  const std::string passed =
      "HTTP/1.1 200 OK\r\n\r\n"
      R"({"name":"vm-1","result":{"exit_code":0,"result":"PASSED","problems":[]}})";
  const ScriptedMachine machine(scratch_ / "vm.sock", {busy, runs, busy, busy, passed});
  const Result result = Run({"wait", "--control", scratch_ / "vm.sock"});
  EXPECT_EQ(result.exit, 0) << result.err;
  EXPECT_EQ(result.out, "vm-1: PASSED\n");
  EXPECT_THAT(result.err, HasSubstr("all 32 connections are in use; try again; still waiting\n"));
}

TEST_F(ProgramTest, APausedGuestIsNotWaitedForAndTheAnswerSaysSo) {
  const auto server = Serve("vm-1");
  EXPECT_THAT(Run({"memory"}).err, Not(HasSubstr("paused")));
  ASSERT_EQ(Run({"pause"}).exit, 0);
  for (const char* command : {"balloon", "memory"}) {
    const Result result = Run({command, "--set", "6M"});
    EXPECT_EQ(result.exit, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("the machine is paused")) << command;
  }
  EXPECT_THAT(Run({"memory", "--set", "4M"}).err, Not(HasSubstr("paused")))
      << "it is there already";
}

TEST_F(ProgramTest, HelpGoesToStandardOutputAndIsExit0) {
  const Result result = Run({"run", "--help"});
  EXPECT_EQ(result.exit, 0);
  EXPECT_THAT(result.out, HasSubstr("Examples:"));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST_F(ProgramTest, EveryQueryHasATableAndJson) {
  const auto server = Serve("vm-1");
  for (const auto& [arguments, text] :
       std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"stats"}, "pfn_caches    count"},
           {{"caches"}, "vring   gpa"},
           {{"memslots"}, "log_dirty_pages,readonly"},
           {{"stage2", "0x10"}, "mapped to pfn 0x4d"},
           {{"dirty"}, "collection 7 ended 20.0 ms ago"},
           {{"coverage"}, "must report it"},
           {{"churn"}, "churn runs, seed 7"}}) {
    const Result table = Run(arguments);
    EXPECT_EQ(table.exit, 0) << table.err;
    EXPECT_THAT(table.out, HasSubstr(text));
    EXPECT_EQ(table.err, "underfoot: the answer of vm-1:\n");
    std::vector<std::string> as_json = arguments;
    as_json.push_back("--json");
    const Result json = Run(as_json);
    EXPECT_EQ(json.exit, 0);
    EXPECT_TRUE(ParseJson(json.out).is_object()) << json.out;
  }
  EXPECT_EQ(ParseJson(Run({"stats", "--json"}).out), ToJson(SomeStats()));
  EXPECT_THAT(Run({"stats", "--csv"}).out, StartsWith("vm.name,vm.vcpus,"));
}

TEST_F(ProgramTest, BalloonSetReportsATargetThatTheGuestDoesNotReach) {
  const auto server = Serve("vm-1");
  const Result never = Run({"balloon", "--set", "1M"});
  EXPECT_EQ(never.exit, 0) << never.err;
  EXPECT_THAT(never.out, HasSubstr("8 KiB of 1 MiB asked for"));
  EXPECT_THAT(never.out, HasSubstr("has changed nothing for 3.0 s"));
  const Result reached = Run({"balloon", "--set", "8K"});
  EXPECT_EQ(reached.exit, 0) << reached.err;
  EXPECT_THAT(reached.out, AllOf(HasSubstr("8 KiB of 8 KiB"), Not(HasSubstr("nothing more"))));
}

TEST_F(ProgramTest, MemorySetReportsATargetThatTheGuestDoesNotReach) {
  const auto server = Serve("vm-1");
  const Result never = Run({"memory", "--set", "8M"});
  EXPECT_EQ(never.exit, 0) << never.err;
  EXPECT_THAT(never.out, AllOf(HasSubstr("4 MiB of 8 MiB asked for, of 1 GiB at most"),
                               HasSubstr("has changed nothing for 3.0 s")));
  EXPECT_THAT(Run({"memory", "--set", "2G"}).err, HasSubstr("more than the region"));
}

TEST_F(ProgramTest, BalloonWaitsForTheReportThatItHasAskedFor) {
  const auto server = Serve("vm-1");
  const Result shown = Run({"balloon"});
  EXPECT_EQ(shown.exit, 0) << shown.err;
  EXPECT_THAT(shown.out, HasSubstr("the guest has reported 20.0 ms ago"));
}

TEST_F(ProgramTest, DirtyPagesAreTakenAsRangesOfFrames) {
  const auto server = Serve("vm-1");
  const Result taken = Run({"dirty", "--take"});
  EXPECT_EQ(taken.exit, 0) << taken.err;
  EXPECT_EQ(taken.out, "0x0 0x3\n0x3f 0x40\n0x141 0x142\n");
  EXPECT_EQ(Run({"dirty", "--take"}).out, "");
  EXPECT_EQ(ParseJson(Run({"dirty", "--take", "--json"}).out)["dirty"], 0);
  EXPECT_EQ(Run({"dirty", "--take", "--watch"}).exit, 2);
}

TEST_F(ProgramTest, EventsAreFollowedUntilTheMachineEnds) {
  target_.HappenTo(1, 2);
  const Result lines = Follow({"events", "--from", "0"});
  const Result json = Follow({"events", "--from", "1", "--json"});
  EXPECT_EQ(lines.exit, 0) << lines.err;
  EXPECT_EQ(std::count(lines.out.begin(), lines.out.end(), '\n'), 3) << lines.out;
  EXPECT_THAT(lines.out, HasSubstr("times are seconds of CLOCK_MONOTONIC"));
  EXPECT_THAT(lines.out, HasSubstr("kernel unmap"));
  EXPECT_EQ(json.exit, 0) << json.err;
  const std::string event = json.out.substr(json.out.find('\n') + 1);  // after the clock
  EXPECT_EQ(ParseJson(event)["number"], 1) << json.out;
}

TEST_F(ProgramTest, PauseResumeQuitAndChurnReachTheMachine) {
  const auto server = Serve("vm-1");
  EXPECT_EQ(Run({"pause"}).out, "vm-1 is paused\n");
  EXPECT_EQ(target_.state(), VmState::kPaused);
  EXPECT_EQ(Run({"resume"}).out, "vm-1 is running\n");
  EXPECT_THAT(Run({"churn", "--set", "zap:25/s", "--stop", "--seed", "12"}).out,
              AllOf(HasSubstr("churn is stopped, seed 12"), HasSubstr("25/s")));
  EXPECT_EQ(Run({"quit"}).out, "vm-1 ends\n");
  EXPECT_TRUE(target_.quit());
}

TEST_F(ProgramTest, AnErrorOfTheMachineIsOneLineAndExit1) {
  const auto server = Serve("vm-1");
  target_.SetBacking(Backing::kAnon);
  const Result result = Run({"churn", "--set", "punch:1/s"});
  EXPECT_EQ(result.exit, 1);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_THAT(result.err, AllOf(StartsWith("underfoot: "), HasSubstr("punch needs a memfd")));
  EXPECT_THAT(Run({"stage2", "0x999"}).err, HasSubstr("in no memslot"));
}

TEST_F(ProgramTest, NoneSeveralAndChosenMachines) {
  EXPECT_EQ(Run({"stats"}).exit, 1);
  EXPECT_THAT(Run({"stats"}).err, HasSubstr("no machine runs"));
  const auto one = Serve("vm-1");
  const auto two = Serve("vm-2");
  EXPECT_EQ(Run({"stats"}).exit, 1);
  EXPECT_THAT(Run({"stats"}).err, AllOf(HasSubstr(one->path()), HasSubstr(two->path())));
  EXPECT_EQ(Run({"stats", "--control", "vm-2"}).exit, 0);
  EXPECT_EQ(Run({"stats", "--control", one->path()}).exit, 0);
  const Result gone = Run({"stats", "--control", scratch_ / "gone.sock"});
  EXPECT_EQ(gone.exit, 1);
  EXPECT_THAT(gone.err, HasSubstr("no answer from " + (scratch_ / "gone.sock")));
}

TEST_F(ProgramTest, WatchRepeatsUntilTheMachineIsGone) {
  auto server = Serve("vm-1");
  Result result;
  std::thread watcher([&] { result = Run({"stats", "--watch", "1ms", "--json"}); });
  const uint64_t asked = target_.stats_asked();
  EXPECT_TRUE(WaitUntil([&] { return target_.stats_asked() >= asked + 3; }));
  server.reset();
  watcher.join();
  EXPECT_EQ(result.exit, 0);
  EXPECT_THAT(result.err, HasSubstr("has ended"));
  std::istringstream lines(result.out);
  size_t answers = 0;
  for (std::string line; std::getline(lines, line); ++answers) {
    EXPECT_EQ(ParseJson(line), ToJson(SomeStats()));
  }
  EXPECT_GE(answers, 3U);
}

// Takes so many parts and then nothing, like a full disk or a pipe whose reader leaves.
class FailingOutput : public std::streambuf {
 public:
  explicit FailingOutput(int error, unsigned parts = 0) : error_(error), parts_(parts) {}

 protected:
  std::streamsize xsputn(const char*, std::streamsize length) override {
    if (parts_ == 0) return Fail();
    --parts_;
    return length;
  }
  int_type overflow(int_type) override {
    static_cast<void>(Fail());
    return traits_type::eof();
  }

 private:
  std::streamsize Fail() const {
    errno = error_;
    return 0;
  }

  const int error_;
  unsigned parts_;
};

TEST_F(ProgramTest, AnOutputThatCannotBeWrittenIsAnErrorOfEveryCommand) {
  const auto server = Serve("vm-1");
  target_.HappenTo(1, 2);
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--help"},
                                             {"--version"},
                                             {"run", "--help"},
                                             {"doctor"},
                                             {"doctor", "--json"},
                                             {"stats"},
                                             {"stats", "--json"},
                                             {"stats", "--csv"},
                                             {"stats", "--watch"},
                                             {"caches"},
                                             {"memslots"},
                                             {"stage2", "0x10"},
                                             {"working-set"},
                                             {"dirty"},
                                             {"coverage"},
                                             {"events", "--from", "0"},
                                             {"events", "--from", "0", "--json"},
                                             {"churn"},
                                             {"pause"},
                                             {"resume"},
                                             {"quit"}}) {
    FailingOutput full(ENOSPC);
    std::ostream out(&full);
    std::ostringstream err;
    EXPECT_EQ(RunProgram(arguments, environment_, {.out = out, .err = err},
                         [](const RunOptions&) { return 0; }),
              1)
        << arguments[0];
    EXPECT_THAT(err.str(),
                EndsWith("underfoot: standard output cannot be written: No space left on device\n"))
        << arguments[0];
  }
}

TEST_F(ProgramTest, AReaderThatLeavesAStreamHasEndedIt) {
  const auto server = Serve("vm-1");
  target_.HappenTo(1, 2);
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"events", "--from", "0"},
                                             {"events", "--from", "0", "--json"},
                                             {"stats", "--watch", "1ms"},
                                             {"stats", "--csv", "--watch", "1ms"},
                                             {"coverage", "--json", "--watch", "1ms"}}) {
    FailingOutput left(EPIPE, 1);
    std::ostream out(&left);
    std::ostringstream err;
    EXPECT_EQ(RunProgram(arguments, environment_, {.out = out, .err = err},
                         [](const RunOptions&) { return 0; }),
              0)
        << arguments[0];
    EXPECT_THAT(err.str(), Not(HasSubstr("cannot be written"))) << arguments[0];
  }
  FailingOutput left(EPIPE);
  std::ostream out(&left);
  std::ostringstream err;
  EXPECT_EQ(RunProgram({"stats"}, environment_, {.out = out, .err = err},
                       [](const RunOptions&) { return 0; }),
            1)
      << "an answer of its own length is not cut off in silence";
  EXPECT_THAT(err.str(), HasSubstr("Broken pipe"));
}

TEST_F(ProgramTest, StatsOfAGroupThatIsNotThereNamesThoseThatAre) {
  const auto server = Serve("vm-1");
  const Result result = Run({"stats", "wings"});
  EXPECT_EQ(result.exit, 2) << "a wrong command line";
  EXPECT_THAT(result.err, AllOf(HasSubstr("no group 'wings'"), HasSubstr("vm, guest")));
  EXPECT_EQ(ParseJson(Run({"stats", "rcu", "--json"}).out),
            Json::object({{"rcu", ToJson(SomeStats())["rcu"]}}));
}

TEST_F(ProgramTest, OnATerminalWatchFitsItsScreen) {
  auto server = Serve("vm-1");
  std::ostringstream out;
  std::ostringstream err;
  const Output output{.out = out, .err = err, .terminal = true, .rows = [] { return 24; }};
  std::thread watcher([&] {
    EXPECT_EQ(RunProgram({"stats", "--watch", "1ms"}, environment_, output,
                         [](const RunOptions&) { return 0; }),
              0);
  });
  const uint64_t asked = target_.stats_asked();
  EXPECT_TRUE(WaitUntil([&] { return target_.stats_asked() >= asked + 3; }));
  server.reset();
  watcher.join();
  const std::vector<std::string> screens = absl::StrSplit(out.str(), "\x1b[H\x1b[2J");
  ASSERT_GE(screens.size(), 4U);
  for (size_t i = 1; i < screens.size(); ++i) {
    EXPECT_EQ(std::count(screens[i].begin(), screens[i].end(), '\n'), 23) << screens[i];
  }
}

TEST(OutputTest, ColoursAreForATerminalThatHasThemUnlessTheyAreRefused) {
  EXPECT_TRUE(WantsColour(true, nullptr, "xterm"));
  EXPECT_TRUE(WantsColour(true, "", "xterm"));
  EXPECT_FALSE(WantsColour(true, "1", "xterm"));
  EXPECT_FALSE(WantsColour(true, nullptr, "dumb"));
  EXPECT_FALSE(WantsColour(true, nullptr, nullptr));
  EXPECT_FALSE(WantsColour(false, nullptr, "xterm"));
  EXPECT_TRUE(InterpretsEscapes(true, "xterm"));
  EXPECT_FALSE(InterpretsEscapes(true, "dumb"));
  EXPECT_FALSE(InterpretsEscapes(true, nullptr));
  EXPECT_FALSE(InterpretsEscapes(false, "xterm"));
}

}  // namespace
}  // namespace underfoot::testing
