// What the program refuses: the right exit code and one line that says what to do.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/boot/system_test.h"

namespace underfoot::testing {
namespace {

class RefusalTest : public SystemTest {
 protected:
  Ended Run(Arguments arguments) {
    arguments.insert(arguments.begin(), "run");
    return Underfoot(std::move(arguments));
  }
  std::string FileOf(const std::string& content) {
    const std::string path = scratch_ / "image";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
};

TEST_F(RefusalTest, AWrongCommandLineIsExit2) {
  ExpectOneLine(Run({"--frobnicate"}), 2, "--frobnicate");
  ExpectOneLine(Run({"--memory", "0"}), 2, "32 MiB");
  ExpectOneLine(Run({"--memory", "17592186044416G"}), 2, "--memory");
  ExpectOneLine(Run({"--memory", "1T"}), 2, "from 32 MiB to 222 GiB");
  ExpectOneLine(Run({"--vcpus", "0"}), 2, "from 1 to");
  ExpectOneLine(Run({"--vcpus", "65"}), 2, "from 1 to");
  ExpectOneLine(Run({"--backing", "paper"}), 2, "anon or memfd");
  ExpectOneLine(Run({"--churn", "earthquake:5/s"}), 2, "earthquake");
  ExpectOneLine(Run({"--churn", "discard:-5/s"}), 2, "discard");
  ExpectOneLine(Run({"--churn", "zap:5/s", "--backing", "anon"}), 2, "--backing memfd");
  ExpectOneLine(Run({"--guest", scratch_ / "none"}), 2, "No such file");
  ExpectOneLine(Run({"--guest", scratch_.path()}), 2, "not a regular file");
  ExpectOneLine(Run({"--control", "/" + std::string(200, 'x')}), 2, "--control");
  ExpectOneLine(Run({"--duration", "yesterday"}), 2, "--duration");
  ExpectOneLine(Underfoot({}), 2, "--help");
}

TEST_F(RefusalTest, AnImageThatIsNoGuestIsNamedWithItsFault) {
  UNDERFOOT_NEEDS_A_RUN();
  ExpectOneLine(Run({"--guest", FileOf("")}), 2, "0 bytes");
  ExpectOneLine(Run({"--guest", FileOf(std::string(5000, 'x'))}), 2, "no ELF magic");
  ExpectOneLine(Run({"--guest", "/bin/sh"}), 2, "not a loadable guest image");
  std::ifstream program(ProgramPath(), std::ios::binary);
  std::string head(80, '\0');
  program.read(head.data(), static_cast<std::streamsize>(head.size()));
  ExpectOneLine(Run({"--guest", FileOf(head)}), 2, "not a loadable guest image");
}

TEST_F(RefusalTest, AFileThatIsNoDiskIsNamedWithItsFault) {
  UNDERFOOT_NEEDS_A_RUN();
  ExpectOneLine(Run({"--disk", scratch_ / "none"}), 2, "No such file");
  ExpectOneLine(Run({"--disk", FileOf("short")}), 2, "has 5 bytes");
  ExpectOneLine(Run({"--disk", "/dev/null"}), 2, "neither a regular file nor a block device");
  ExpectOneLine(Run({"--disk", FileOf("short"), "--guest", "stamp"}), 2, "uses no disk");
}

TEST_F(RefusalTest, ARunThatIsRefusedLeavesTheFileOfItsRecordAsItWas) {
  UNDERFOOT_NEEDS_A_RUN();
  const std::string content(65536, 'p');
  const std::string path = FileOf(content);
  const auto is_as_it_was = [&] {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {}) == content;
  };
  ExpectOneLine(Run({"--record", path, "--disk", scratch_ / "none"}), 2, "No such file");
  EXPECT_TRUE(is_as_it_was());
  ExpectOneLine(Run({"--record", path, "--guest", "/bin/sh"}), 2, "not a loadable guest image");
  EXPECT_TRUE(is_as_it_was());
  ExpectOneLine(Run({"--record", path, "--disk", path}), 2, "would be overwritten");
  EXPECT_TRUE(is_as_it_was());
  ExpectOneLine(Run({"--record", path, "--replay", path}), 2, "would be overwritten");
  EXPECT_TRUE(is_as_it_was());
  const std::string text = scratch_ / "text";
  std::ofstream(text) << "not a socket";
  ExpectOneLine(Run({"--record", path, "--control", text}), 2, "is not a socket");
  EXPECT_TRUE(is_as_it_was());
}

// A line on standard output would announce a change of the host.
TEST_F(RefusalTest, TheHostIsNotChangedForARunThatIsRefused) {
  UNDERFOOT_NEEDS_A_RUN();
  const auto refused = [&](Arguments more, const std::string& says) {
    Arguments all = {"--allow-host-changes", "--churn", "storm", "--huge-pages", "2M"};
    all.insert(all.end(), more.begin(), more.end());
    ExpectOneLine(Run(all), 2, says);
  };
  refused({"--disk", scratch_ / "none"}, "No such file");
  const std::string link = scratch_ / "link";
  ASSERT_EQ(symlink((scratch_ / "target").c_str(), link.c_str()), 0);
  refused({"--record", link, "--guest", FileOf("no ELF file")}, "not a loadable guest image");
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "target")) << "the refused run has made a record";
  refused({"--guest", FileOf("no ELF file")}, "not a loadable guest image");
  refused({"--record", scratch_ / "no/such"}, "no/such cannot be written");
  refused({"--control", FileOf("precious")}, "is not a socket");
  const std::string record = scratch_ / "record";
  std::ofstream(record) << R"({"underfoot_churn": 1, "memory_bytes": 4096, "backing": "anon"})"
                        << "\n";
  const Ended replayed = Run({"--allow-host-changes", "--huge-pages", "2M", "--replay", record});
  ExpectOneLine(replayed, 2, "was recorded with --memory 4K");
}

// Root without capabilities.
TEST_F(RefusalTest, ARunThatMustHaveTheKernelsRecordsAndMayNotDoesNotRunTheGuest) {
  UNDERFOOT_NEEDS_A_RUN();
  const std::string disk = scratch_ / "disk";
  std::ofstream(disk) << std::string(1 << 20, '\0');
  const Ended run = RunToEnd(
      scratch_.path(), {"setpriv", "--bounding-set=-all", "--inh-caps=-all", ProgramPath(), "run",
                        "--kernel-events", "on", "--disk", disk, "--control", control_});
  if (run.exit == 127 || run.err.starts_with("setpriv")) GTEST_SKIP() << "no setpriv: " << run.err;
  ExpectOneLine(run, 2, "--kernel-events on");
  std::ifstream file(disk, std::ios::binary);
  const std::string content(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ(content, std::string(1 << 20, '\0')) << "the guest has written to its disk";
}

TEST_F(RefusalTest, AnOutputThatCannotBeWrittenIsExit1WithTheReason) {
  // The command's end of a pipe, whose other end is closed.
  const std::string fifo = scratch_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  const std::string no_reader = "exec 3<>" + fifo + " 4>" + fifo + " 3>&-; ";
  for (const char* command : {"--help", "--version", "run --help", "doctor --json"}) {
    const std::string line = ProgramPath() + " " + command;
    for (const auto& [script, why] : {std::pair{line + " >/dev/full", "No space left"},
                                      std::pair{no_reader + line + " >&4", "Broken pipe"},
                                      std::pair{line + " >&-", "Bad file descriptor"}}) {
      const Ended ended = RunToEnd(scratch_.path(), {"sh", "-c", script});
      EXPECT_EQ(ended.exit, 1) << script;
      EXPECT_THAT(ended.err, ::testing::HasSubstr(why)) << script;
    }
  }
}

TEST_F(RefusalTest, AControlPathThatIsTakenIsNamedAndItsMachineRunsOn) {
  UNDERFOOT_NEEDS_A_RUN();
  const auto machine = StartMachine({"--churn", "mixed"});
  ExpectOneLine(RunToEnd(scratch_.path(), RunCommand({"--duration", "1s"})), 2, control_);
  EXPECT_EQ(Client({"quit"}).exit, 0);
  ExpectPassed(*machine);
}

TEST_F(RefusalTest, AControlPathThatIsNoSocketIsLeftAlone) {
  UNDERFOOT_NEEDS_A_RUN();
  const std::string path = FileOf("precious");
  ExpectOneLine(Run({"--control", path}), 2, "not a socket");
  std::string content;
  EXPECT_TRUE(std::ifstream(path) >> content);
  EXPECT_EQ(content, "precious");
}

// In a mount namespace of its own, with /dev/null in the place of a device.
class MissingDeviceTest : public RefusalTest {
 protected:
  Ended RunWithout(const std::string& device, const std::string& how) {
    return RunToEnd(scratch_.path(), {"unshare", "-m", "sh", "-c",
                                      "mount --bind /dev/null " + device + " && exec " + how + " " +
                                          ProgramPath() + " run --control " + control_});
  }
  void SetUp() override {
    RefusalTest::SetUp();
    if (IsSkipped()) return;
    UNDERFOOT_NEEDS_A_RUN();
    const Ended can = RunToEnd(scratch_.path(), {"sh", "-c",
                                                 "unshare -m mount --bind /dev/null /dev/kvm && "
                                                 "command -v setpriv"});
    if (can.exit != 0) GTEST_SKIP() << "no mount namespace, or no setpriv: " << can.err;
  }
};

TEST_F(MissingDeviceTest, WithoutKvmTheErrorNamesIt) {
  ExpectOneLine(RunWithout("/dev/kvm", ""), 2, "kvm");
}

TEST_F(MissingDeviceTest, WithoutTheRightToUserfaultfdTheErrorNamesTheRemedy) {
  std::ifstream file("/proc/sys/vm/unprivileged_userfaultfd");
  int unprivileged = 0;
  if (file >> unprivileged && unprivileged == 1) GTEST_SKIP() << "everybody has the right here";
  ExpectOneLine(RunWithout("/dev/userfaultfd", "setpriv --bounding-set=-all --inh-caps=-all"), 2,
                "vm.unprivileged_userfaultfd=1");
}

}  // namespace
}  // namespace underfoot::testing
