// What the program refuses: the right exit code and one line that says what to do.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
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
  ExpectOneLine(Run({"--memory", "2T"}), 2, "1 TiB");
  ExpectOneLine(Run({"--vcpus", "0"}), 2, "from 1 to");
  ExpectOneLine(Run({"--vcpus", "65"}), 2, "from 1 to");
  ExpectOneLine(Run({"--backing", "paper"}), 2, "anon or memfd");
  ExpectOneLine(Run({"--churn", "earthquake:5/s"}), 2, "earthquake");
  ExpectOneLine(Run({"--churn", "discard:-5/s"}), 2, "discard");
  ExpectOneLine(Run({"--churn", "zap:5/s", "--backing", "anon"}), 2, "--backing memfd");
  ExpectOneLine(Run({"--guest", scratch_ / "none"}), 2, "No such file");
  ExpectOneLine(Run({"--guest", scratch_.path()}), 2, "no regular file");
  ExpectOneLine(Run({"--control", "/" + std::string(200, 'x')}), 2, "--control");
  ExpectOneLine(Run({"--duration", "yesterday"}), 2, "--duration");
  ExpectOneLine(Underfoot({}), 2, "--help");
}

TEST_F(RefusalTest, AnImageThatIsNoGuestIsNamedWithItsFault) {
  UNDERFOOT_NEEDS_KVM();
  ExpectOneLine(Run({"--guest", FileOf("")}), 1, "0 bytes");
  ExpectOneLine(Run({"--guest", FileOf(std::string(5000, 'x'))}), 1, "no ELF magic");
  ExpectOneLine(Run({"--guest", "/bin/sh"}), 1, "not a loadable guest image");
  std::ifstream program(ProgramPath(), std::ios::binary);
  std::string head(80, '\0');
  program.read(head.data(), static_cast<std::streamsize>(head.size()));
  ExpectOneLine(Run({"--guest", FileOf(head)}), 1, "not a loadable guest image");
}

TEST_F(RefusalTest, MoreMemoryThanTheGuestCanMapIsRefusedWithTheLimit) {
  UNDERFOOT_NEEDS_KVM();
  ExpectOneLine(Run({"--memory", "1T"}), 1, "222 GiB");
}

TEST_F(RefusalTest, AControlPathThatIsTakenIsNamedAndItsMachineRunsOn) {
  UNDERFOOT_NEEDS_KVM();
  const auto machine = StartMachine({"--churn", "mixed"});
  ExpectOneLine(RunToEnd(scratch_.path(), RunCommand({"--duration", "1s"})), 1, control_);
  EXPECT_EQ(Client({"quit"}).exit, 0);
  ExpectPassed(*machine);
}

TEST_F(RefusalTest, AControlPathThatIsNoSocketIsLeftAlone) {
  UNDERFOOT_NEEDS_KVM();
  const std::string path = FileOf("precious");
  ExpectOneLine(Run({"--control", path}), 1, "no socket");
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
    UNDERFOOT_NEEDS_KVM();
    const Ended can = RunToEnd(scratch_.path(), {"sh", "-c",
                                                 "unshare -m mount --bind /dev/null /dev/kvm && "
                                                 "command -v setpriv"});
    if (can.exit != 0) GTEST_SKIP() << "no mount namespace, or no setpriv: " << can.err;
  }
};

TEST_F(MissingDeviceTest, WithoutKvmItSaysSo) {
  ExpectOneLine(RunWithout("/dev/kvm", ""), 1, "kvm");
}

TEST_F(MissingDeviceTest, WithoutTheRightToUserfaultfdItSaysWhoGrantsIt) {
  std::ifstream file("/proc/sys/vm/unprivileged_userfaultfd");
  int unprivileged = 0;
  if (file >> unprivileged && unprivileged == 1) GTEST_SKIP() << "everybody has the right here";
  ExpectOneLine(RunWithout("/dev/userfaultfd", "setpriv --bounding-set=-all --inh-caps=-all"), 1,
                "vm.unprivileged_userfaultfd=1");
}

}  // namespace
}  // namespace underfoot::testing
