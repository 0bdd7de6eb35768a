// The program as a user: machines that run, are asked, moved, killed and ended.

#include "tests/boot/system_test.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/support/random.h"
#include "vmm/base/unique_fd.h"

namespace underfoot::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class RunningTest : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (!IsSkipped()) UNDERFOOT_NEEDS_A_RUN();
  }

  uint64_t PagesChecked() { return Stats()["guest"]["pages_checked"].get<uint64_t>(); }

  // A client that does not speak HTTP.
  void SendGarbage(Random& random) {
    const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, control_.c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    std::string bytes(random.Between(1, 4000), '\0');
    for (char& byte : bytes) byte = static_cast<char>(random.Next());
    static_cast<void>(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  }
};

// The counters that a mixed run moves, sooner or later.
const std::vector<std::pair<const char*, std::vector<const char*>>> kMoved = {
    {"guest", {"pages_checked"}},
    {"pfn_caches",
     {"hits", "misses", "refreshes", "invalidations", "prechecks", "precheck_overlaps"}},
    {"stage2", {"tables", "maps", "unmaps", "flushes"}},
    {"notifier", {"begins", "ends"}},
    {"memslots", {"count", "generation", "updates", "update_wait_us_max"}},
    {"rcu", {"retired", "freed"}},
    {"uffd", {"missing", "wp", "minor", "removes"}},
    {"audit", {"checks"}},
    {"devices",
     {"count", "requests", "errors", "checked", "to_guest_bytes", "from_guest_bytes", "bounced",
      "kicks", "interrupts", "refreshes", "refreshes_in_request"}},
};

// The names of those that still stand at zero.
std::string StandingStill(const Json& stats) {
  std::string names;
  for (const auto& [group, fields] : kMoved) {
    for (const char* field : fields) {
      if (stats[group].value(field, 0) == 0) names += std::string(group) + "." + field + " ";
    }
  }
  for (const char* kind : {"discard", "zap", "punch", "wp", "protect", "memslot", "foreign"}) {
    if (stats["churn"]["operations"].value(kind, 0) == 0) names += std::string(kind) + " ";
  }
  return names;
}

TEST_F(RunningTest, AMixedRunMovesEveryCounterAndPasses) {
  const auto machine = StartMachine({"--json", "--churn", "mixed:4000/s", "--seed", "5"});
  EXPECT_TRUE(WaitUntil([&] { return StandingStill(Stats()).empty(); }, 3 * kDeadline));
  ExpectObeyed(Client({"quit"}));
  const std::optional<Ended> run = machine->Wait();
  ASSERT_TRUE(run.has_value());
  ASSERT_EQ(run->exit, 0) << run->out << run->err;
  const Json summary = Json::parse(run->out, nullptr, false);
  ASSERT_TRUE(summary.is_object()) << run->out;
  EXPECT_EQ(summary["passed"], true);
  EXPECT_TRUE(summary["problems"].empty());
  const Json& stats = summary["stats"];
  EXPECT_EQ(StandingStill(stats), "");
  EXPECT_GT(stats["uffd"]["fault_us"]["p50"], 0);
  EXPECT_EQ(stats["churn"]["seed"], 5);
  EXPECT_EQ(stats["guest"]["mismatches"], 0);
  EXPECT_EQ(stats["audit"]["unexplained"], 0);
  EXPECT_EQ(stats["rcu"]["retired"], stats["rcu"]["freed"]);
  EXPECT_EQ(stats["notifier"]["begins"], stats["notifier"]["ends"]);
  EXPECT_EQ(stats["notifier"]["stray_ends"], 0);
  EXPECT_NE(access(control_.c_str(), F_OK), 0) << "its socket is still there";
}

TEST_F(RunningTest, ADirtyLogIsCollectedCheckedAndHandedOut) {
  const auto machine =
      StartMachine({"--json", "--churn", "mixed:4000/s", "--dirty-log", "20ms", "--seed", "5"});
  EXPECT_TRUE(WaitUntil(
      [&] {
        const Json log = Stats()["dirty_log"];
        return log["collections"] > 20 && log["checked"] > 200 && log["from_kvm"] > 0 &&
               log["from_memslots"] > 0 && log["from_ram"] > 0;
      },
      3 * kDeadline));
  const Ended taken = Client({"dirty", "--take"});
  ExpectObeyed(taken);
  EXPECT_THAT(taken.out, StartsWith("0x1 ")) << "the page that the machine writes each time";
  ExpectObeyed(Client({"dirty"}));
  ExpectObeyed(Client({"quit"}));
  const std::optional<Ended> run = machine->Wait();
  ASSERT_TRUE(run.has_value());
  ASSERT_EQ(run->exit, 0) << run->out << run->err;
  const Json log = Json::parse(run->out, nullptr, false)["stats"]["dirty_log"];
  EXPECT_EQ(log["missed"], 0);
  EXPECT_EQ(log["failures"], 0);
  EXPECT_GT(log["taken"], 0);
  EXPECT_EQ(log["given_back"], 0);
}

TEST_F(RunningTest, AnInterruptEndsItWithVerdictAndSummary) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const auto machine = StartMachine({"--churn", "mixed"});
    machine->Signal(signal);
    ExpectPassed(*machine);
  }
}

TEST_F(RunningTest, AClientEndsIt) {
  const auto machine = StartMachine({"--churn", "mixed"});
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
  EXPECT_EQ(Client({"stats"}).exit, 1);
}

TEST_F(RunningTest, AClientThatWaitsGetsTheExitCodeAndResultOfTheRun) {
  const auto machine = StartMachine({"--churn", "mixed"});
  Process waiting(scratch_.path(), {ProgramPath(), "wait", "--control", control_});
  const Ended quit = Client({"quit", "--wait", "--json"});
  EXPECT_EQ(quit.exit, 0) << quit.err;
  EXPECT_EQ(Json::parse(quit.out)["result"], "passed");
  ExpectPassed(*machine);
  const std::optional<Ended> waited = waiting.Wait();
  ASSERT_TRUE(waited.has_value());
  EXPECT_EQ(waited->exit, 0) << waited->err;
  EXPECT_THAT(waited->out, HasSubstr(": passed"));
}

// Such an end takes less time than a client lets pass between two questions.
TEST_F(RunningTest, AClientThatWaitsGetsTheResultOfAMachineThatEndsAtOnce) {
  for (int i = 0; i < 5; ++i) {
    const auto machine = StartMachine({"--churn", "off", "--vcpus", "1"});
    const Ended quit = Client({"quit", "--wait"});
    EXPECT_EQ(quit.exit, 0) << quit.err;
    EXPECT_THAT(quit.out, HasSubstr(": passed"));
    ExpectPassed(*machine);
  }
}

TEST_F(RunningTest, AHangupEndsItInOrder) {
  const auto machine = StartMachine({"--churn", "mixed"});
  machine->Signal(SIGHUP);
  ExpectPassed(*machine);
  EXPECT_NE(access(control_.c_str(), F_OK), 0) << "its socket is still there";
}

TEST_F(RunningTest, ARecordThatCannotBeWrittenIsNamedAndIsNoFailureOfTheGuest) {
  const Ended run = Underfoot({"run", "--control", control_, "--memory", "36M", "--churn",
                               "discard:1000/s", "--duration", "1s", "--record", "/dev/full"});
  EXPECT_EQ(run.exit, 2) << run.out;
  EXPECT_THAT(run.err, HasSubstr("No space left on device"));
}

TEST_F(RunningTest, AReplayIsRefusedWhereItsChurnWouldBe) {
  const std::string path = scratch_ / "record";
  for (const auto& [kind, lane, backing] :
       {std::tuple("zap", 0, "anon"), std::tuple("punch", 0, "anon"),
        std::tuple("free", 0, "memfd"), std::tuple("compact", 2, "anon")}) {
    std::ofstream(path) << absl::StrFormat(
                               R"({"underfoot_churn":1,"memory_bytes":%d,"backing":"%s"})",
                               36 << 20, backing)
                        << "\n"
                        << absl::StrFormat(R"({"at_us":1,"lane":%d,"kind":"%s","random":1,)", lane,
                                           kind)
                        << R"("gpa":0,"bytes":4096,"outcome":"done"})"
                        << "\n";
    const Ended run = Underfoot({"run", "--control", control_, "--memory", "36M", "--backing",
                                 backing, "--duration", "1s", "--replay", path});
    EXPECT_EQ(run.exit, 2) << kind << run.out;
    EXPECT_THAT(run.err, HasSubstr(std::string("churn kind ") + kind));
  }
}

TEST_F(RunningTest, AKilledMachineStopsNoOther) {
  for (int i = 0; i < 3; ++i) {
    const auto machine = StartMachine({"--churn", "storm", "--name", "phoenix"});
    machine->Signal(SIGKILL);
    const std::optional<Ended> ended = machine->Wait();
    ASSERT_TRUE(ended.has_value());
    EXPECT_EQ(ended->exit, -SIGKILL);
    EXPECT_EQ(access(control_.c_str(), F_OK), 0) << "a killed machine leaves its socket";
    EXPECT_EQ(Client({"stats"}).exit, 1);
  }
  const auto machine = StartMachine({"--name", "phoenix"});
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
}

TEST_F(RunningTest, APauseStopsTheGuestAndAResumeLetsItGoOn) {
  const auto machine = StartMachine({"--churn", "mixed"});
  EXPECT_TRUE(WaitUntil([&] { return PagesChecked() > 0; }));
  ExpectObeyed(Client({"pause"}));
  const uint64_t pages = PagesChecked();
  const uint64_t moved = Stats()["notifier"]["ends"].get<uint64_t>();
  EXPECT_TRUE(WaitUntil([&] { return Stats()["notifier"]["ends"].get<uint64_t>() > moved + 100; }));
  EXPECT_EQ(PagesChecked(), pages);
  EXPECT_EQ(Stats()["vm"]["state"], "paused");
  ExpectObeyed(Client({"resume"}));
  EXPECT_TRUE(WaitUntil([&] { return PagesChecked() > pages; }));
  ExpectObeyed(Client({"pause"}));
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
}

TEST_F(RunningTest, CurlQueriesTheSocket) {
  const auto machine = StartMachine({"--churn", "mixed"});
  const Ended curl = RunToEnd(
      scratch_.path(), {"curl", "-s", "--unix-socket", control_, "http://underfoot/v1/stats"});
  if (curl.exit == 127) GTEST_SKIP() << "no curl";
  ASSERT_EQ(curl.exit, 0) << curl.err;
  const Json stats = Json::parse(curl.out, nullptr, false);
  EXPECT_EQ(stats["vm"]["state"], "running") << curl.out;
  EXPECT_EQ(stats["guest"]["workload"], "mixed");
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
}

TEST_F(RunningTest, TheChurnIsStoppedAndSetByAClient) {
  const auto machine = StartMachine({"--churn", "mixed"});
  ExpectObeyed(Client({"churn", "--stop"}));
  EXPECT_EQ(Stats()["churn"]["running"], false);
  ExpectObeyed(Client({"churn", "--set", "wp:500/s", "--start", "--seed", "9"}));
  const auto wp = [&] { return Stats()["churn"]["operations"].value("wp", 0); };
  const int before = wp();
  EXPECT_TRUE(WaitUntil([&] { return wp() > before + 20; }));
  EXPECT_EQ(Stats()["churn"]["seed"], 9);
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
}

TEST_F(RunningTest, GarbageOnTheSocketDisturbsNoOtherClient) {
  const auto machine = StartMachine({"--churn", "mixed"});
  Random random;
  for (int i = 0; i < 100; ++i) ASSERT_NO_FATAL_FAILURE(SendGarbage(random));
  const uint64_t pages = PagesChecked();
  EXPECT_TRUE(WaitUntil([&] { return PagesChecked() > pages; }));
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*machine);
}

TEST_F(RunningTest, TwoMachinesRunBesideEachOther) {
  const auto one = StartMachine({"--churn", "mixed", "--name", "one"});
  const std::string other = scratch_ / "two.sock";
  Process two(scratch_.path(), {ProgramPath(), "run", "--control", other, "--memory", "36M",
                                "--churn", "mixed", "--duration", "1s", "--name", "two"});
  ExpectPassed(two);
  EXPECT_EQ(Stats()["vm"]["name"], "one");
  ExpectObeyed(Client({"quit"}));
  ExpectPassed(*one);
}

}  // namespace
}  // namespace underfoot::testing
