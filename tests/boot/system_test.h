// The scene of the system tests: the program, a directory of its own, machines and their clients.

#ifndef UNDERFOOT_TESTS_BOOT_SYSTEM_TEST_H_
#define UNDERFOOT_TESTS_BOOT_SYSTEM_TEST_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "tests/boot/program.h"
#include "tests/control/scratch.h"
#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "vmm/cli/doctor.h"

namespace underfoot::testing {

using Json = nlohmann::json;

class SystemTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The machine of a stock KVM carries the tests and not the program.
    if (ProgramPath().empty()) GTEST_SKIP() << "no program at " << UNDERFOOT_PROGRAM;
    setenv("XDG_RUNTIME_DIR", scratch_.path().c_str(), 1);
  }

  // Without: for what must be refused before a guest is thought of.
  Ended Underfoot(Arguments arguments) {
    arguments.insert(arguments.begin(), ProgramPath());
    return RunToEnd(scratch_.path(), arguments);
  }

  Arguments RunCommand(const Arguments& more) const {
    Arguments command = {ProgramPath(), "run", "--control", control_,
                         "--memory",    "36M", "--backing", "memfd"};
    command.insert(command.end(), more.begin(), more.end());
    return command;
  }
  // A machine that runs until a request to end. Its socket answers while it is still starting.
  std::unique_ptr<Process> StartMachine(const Arguments& more) {
    Arguments command = RunCommand(more);
    command.insert(command.end(), {"--duration", "0"});
    auto machine = std::make_unique<Process>(scratch_.path(), command);
    EXPECT_TRUE(WaitUntil([&] { return IsRunning(); })) << "no machine answers that it runs";
    return machine;
  }
  Ended Client(Arguments arguments) {
    arguments.insert(arguments.end(), {"--control", control_});
    return Underfoot(std::move(arguments));
  }
  bool IsRunning() {
    const Ended asked = Client({"stats", "--json"});
    return asked.exit == 0 && Json::parse(asked.out)["vm"]["state"] == "running";
  }
  Json Stats() {
    const Ended asked = Client({"stats", "--json"});
    EXPECT_EQ(asked.exit, 0) << asked.err;
    return Json::parse(asked.out, nullptr, false);
  }

  // Why this user can run no machine here; nullopt: it can.
  static std::optional<std::string> WhyNoRun() {
    DoctorReport report = RunDoctor();
    if (report.CanRun()) return std::nullopt;
    std::erase_if(report.checks,
                  [](const DoctorCheck& check) { return check.result != CheckResult::kMissing; });
    return DoctorWarnings(report);
  }

  static void ExpectObeyed(const Ended& client) { EXPECT_EQ(client.exit, 0) << client.err; }
  void ExpectPassed(Process& machine) {
    const std::optional<Ended> ended = machine.Wait();
    ASSERT_TRUE(ended.has_value()) << "the machine does not end";
    EXPECT_EQ(ended->exit, 0) << ended->out << ended->err;
    EXPECT_THAT(ended->out, ::testing::HasSubstr("PASSED"));
    EXPECT_EQ(WithoutWhatIsLostHere(ended->err), "");
  }

  // A failure that a user can act upon: nothing on stdout, one line on stderr.
  static void ExpectOneLine(const Ended& ended, int exit, const std::string& says) {
    EXPECT_EQ(ended.exit, exit) << ended.err;
    EXPECT_EQ(ended.out, "");
    const std::string err = WithoutWhatIsLostHere(ended.err);
    EXPECT_THAT(err, ::testing::StartsWith("underfoot"));
    EXPECT_THAT(err, ::testing::HasSubstr(says));
    EXPECT_EQ(std::count(err.begin(), err.end(), '\n'), 1) << err;
  }

  // Where this user may not have the kernel source, each run says so first: PrivilegesTest.
  static std::string WithoutWhatIsLostHere(const std::string& err) {
    const bool says = err.starts_with("underfoot run: tracepoints: ");
    return says ? err.substr(err.find('\n') + 1) : err;
  }

  Scratch scratch_;
  const std::string control_ = scratch_ / "vm.sock";
};

}  // namespace underfoot::testing

// First line of a SystemTest that runs a machine.
#define UNDERFOOT_NEEDS_A_RUN()                            \
  do {                                                     \
    if (const auto why = WhyNoRun()) UNDERFOOT_SKIP(*why); \
  } while (false)

#endif  // UNDERFOOT_TESTS_BOOT_SYSTEM_TEST_H_
