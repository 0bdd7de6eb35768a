// A user who may open the devices and no more: no capability, no tracefs.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/boot/system_test.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class PrivilegesTest : public SystemTest {
 protected:
  void SetUp() override {
    SystemTest::SetUp();
    if (IsSkipped()) return;
    UNDERFOOT_NEEDS_KVM();
    const Ended can = AsNobody("true");
    if (can.exit != 0) GTEST_SKIP() << "nobody cannot be tried here: " << can.err;
    const Ended uffd = AsNobody(
        "sh -c 'test -w /dev/userfaultfd || grep -q 1 /proc/sys/vm/unprivileged_userfaultfd'");
    if (uffd.exit != 0) GTEST_SKIP() << "this kernel has no /dev/userfaultfd (6.1 does)";
  }

  // In a mount namespace of its own, where all users may open the devices, no tracefs is mounted
  // and the scratch directory has a copy of the program.
  Ended AsNobody(const std::string& command) {
    const std::string script =
        "program=$1 scratch=$2\n"
        "umount -a -t tracefs\n"
        "mount -t tmpfs -o mode=777 tmpfs \"$scratch\" && cd \"$scratch\" && mkdir devices &&\n"
        "cp \"$program\" underfoot && chmod 755 underfoot &&\n"
        "for device in kvm userfaultfd; do\n"
        "  test -e /dev/$device || continue\n"
        "  cp -a /dev/$device devices && chmod 666 devices/$device &&\n"
        "  mount --bind devices/$device /dev/$device || exit\n"
        "done\n"
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all "
        "--bounding-set=-all " +
        command;
    return RunToEnd(scratch_.path(),
                    {"unshare", "-m", "sh", "-c", script, "sh", ProgramPath(), scratch_.path()});
  }
};

TEST_F(PrivilegesTest, ARunWorksAndReportsWhatItCannotObserve) {
  const Ended run = AsNobody(
      "./underfoot run --control vm.sock --memory 36M --churn mixed "
      "--duration 1s");
  EXPECT_EQ(run.exit, 0) << run.out << run.err;
  EXPECT_THAT(run.out, HasSubstr("PASSED"));
  EXPECT_THAT(run.out, HasSubstr("hva page numbers stand in for pfns"));
  EXPECT_THAT(run.out, HasSubstr("are unobserved"));
  EXPECT_THAT(run.err, AllOf(HasSubstr("tracepoints"), HasSubstr("remedy")));
}

// What could have been missed by a source that is not there is not called seen by it.
TEST_F(PrivilegesTest, AChangeThatNoSourceCanReportIsCalledUnobservable) {
  const Ended run = AsNobody(
      "./underfoot run --control vm.sock --memory 36M --churn fork:20/s "
      "--duration 1s");
  EXPECT_EQ(run.exit, 0) << run.out << run.err;
  EXPECT_THAT(run.out, AllOf(HasSubstr("kernel (off)"), HasSubstr("unobservable")));
}

TEST_F(PrivilegesTest, ARequiredSourceThatIsUnavailableEndsTheRun) {
  const Ended run = AsNobody(
      "./underfoot run --control vm.sock --memory 36M --kernel-events on "
      "--duration 1s");
  EXPECT_EQ(run.exit, 2);
  EXPECT_THAT(run.out, Not(HasSubstr("PASSED")));
  EXPECT_THAT(run.err, AllOf(HasSubstr("--kernel-events on"), HasSubstr("run as root")));
}

TEST_F(PrivilegesTest, TheDoctorNamesEachLossAndItsRemedy) {
  const Ended doctor = AsNobody("./underfoot doctor");
  EXPECT_EQ(doctor.exit, 0) << doctor.out << doctor.err;
  for (const char* what : {"less     privileges", "less     pagemap", "less     tracepoints",
                           "uid 65534", "CAP_SYS_ADMIN no", "lost:", "remedy:"}) {
    EXPECT_THAT(doctor.out, HasSubstr(what));
  }
}

}  // namespace
}  // namespace underfoot::testing
