// Where the socket lives, which process gets the path, and how a client finds it.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <barrier>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/control/scratch.h"
#include "vmm/control/listener.h"
#include "vmm/control/probe.h"
#include "vmm/control/socket_path.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

mode_t ModeOf(const std::string& path) {
  struct stat info {};
  return lstat(path.c_str(), &info) == 0 ? info.st_mode & 0777 : 0;
}

std::string ErrorOf(const absl::Status& status) { return std::string(status.message()); }

// A socket file without a listener, as kill -9 leaves it.
void LeaveStaleSocket(const std::string& path) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto listener = UnixListener::Bind(path);
    if (listener.ok()) raise(SIGKILL);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the child could not bind " << path;
}

// What a server that ended without its destructor leaves, without the cost of a process.
void BindAndForget(const std::string& path) {
  const absl::StatusOr<sockaddr_un> address = SocketAddress(path);
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)), 0);
}

class SocketTest : public ::testing::Test {
 protected:
  SocketTest() {
    environment_.xdg_runtime_dir = scratch_ / "xdg";
    environment_.uid = geteuid();
    environment_.run_user = scratch_ / "run";
    environment_.tmp = scratch_ / "tmp";
    mkdir(environment_.xdg_runtime_dir.c_str(), 0700);
    mkdir(environment_.tmp.c_str(), 0777);
  }

  // A listener at the default path of `name`.
  std::unique_ptr<UnixListener> Run(const std::string& name) {
    const std::string path = DefaultSocketPath(name, environment_);
    EXPECT_TRUE(PrepareSocketDirectory(path, environment_).ok());
    auto listener = UnixListener::Bind(path);
    EXPECT_TRUE(listener.ok()) << listener.status();
    return listener.ok() ? *std::move(listener) : nullptr;
  }

  Scratch scratch_;
  SocketEnvironment environment_;
};

TEST_F(SocketTest, TheDefaultPathPrefersXdgThenRunUserThenTmp) {
  const std::string uid = std::to_string(geteuid());
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_), scratch_ / "xdg/underfoot/vm-1.sock");
  environment_.xdg_runtime_dir.clear();
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_),
            scratch_ / "tmp/underfoot-" + uid + "/vm-1.sock");
  mkdir(environment_.run_user.c_str(), 0700);
  mkdir((environment_.run_user + "/" + uid).c_str(), 0700);
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_),
            environment_.run_user + "/" + uid + "/underfoot/vm-1.sock");
}

TEST_F(SocketTest, XdgCountsOnlyIfItIsThereAndTheCallersOwn) {
  const std::string tmp = scratch_ / "tmp/underfoot-" + std::to_string(geteuid()) + "/vm-1.sock";
  const std::string xdg = environment_.xdg_runtime_dir;
  environment_.xdg_runtime_dir = scratch_ / "none";
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_), tmp);
  environment_.xdg_runtime_dir = "xdg";
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_), tmp) << "a relative path";
  std::ofstream(scratch_ / "file") << "x";
  environment_.xdg_runtime_dir = scratch_ / "file";
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_), tmp) << "no directory";
  environment_.xdg_runtime_dir = xdg;
  environment_.uid = geteuid() + 1;  // as root with another user's XDG_RUNTIME_DIR
  EXPECT_EQ(DefaultSocketPath("vm-1", environment_),
            scratch_ / "tmp/underfoot-" + std::to_string(environment_.uid) + "/vm-1.sock");
}

TEST_F(SocketTest, TheDirectoryIsMadeForThisUserAlone) {
  const auto listener = Run("vm-1");
  EXPECT_EQ(ModeOf(scratch_ / "xdg/underfoot"), 0700U);
  EXPECT_EQ(ModeOf(scratch_ / "xdg/underfoot/vm-1.sock"), 0600U);
}

TEST_F(SocketTest, TheSocketIs0600WhateverTheUmask) {
  const mode_t before = umask(0);
  const auto listener = UnixListener::Bind(scratch_ / "x.sock");
  umask(before);
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ(ModeOf(scratch_ / "x.sock"), 0600U);
}

TEST_F(SocketTest, ADirectoryThatOthersCanEnterIsRefusedWithTheRemedy) {
  const std::string directory = scratch_ / "xdg/underfoot";
  mkdir(directory.c_str(), 0700);
  chmod(directory.c_str(), 0755);
  const absl::Status status =
      PrepareSocketDirectory(DefaultSocketPath("vm-1", environment_), environment_);
  EXPECT_THAT(ErrorOf(status), AllOf(HasSubstr("has mode 0755"), HasSubstr("chmod 0700")));
}

TEST_F(SocketTest, ADirectoryOfAnotherUserIsRefused) {
  const std::string directory = scratch_ / "xdg/underfoot";
  mkdir(directory.c_str(), 0700);
  environment_.uid += 1;
  const absl::Status status =
      PrepareSocketDirectory(DefaultSocketPath("vm-1", environment_), environment_);
  EXPECT_THAT(ErrorOf(status), AllOf(HasSubstr("belongs to user"), HasSubstr("--control PATH")));
}

TEST_F(SocketTest, ALinkInPlaceOfTheDirectoryIsRefused) {
  symlink(scratch_.path().c_str(), (scratch_ / "xdg/underfoot").c_str());
  const absl::Status status =
      PrepareSocketDirectory(DefaultSocketPath("vm-1", environment_), environment_);
  EXPECT_THAT(ErrorOf(status), HasSubstr("is not a directory"));
}

TEST_F(SocketTest, AnExplicitPathMayLieInAnyDirectory) {
  chmod(environment_.tmp.c_str(), 0777);
  EXPECT_TRUE(PrepareSocketDirectory(scratch_ / "tmp/x.sock", environment_).ok());
  EXPECT_EQ(ModeOf(environment_.tmp), 0777U);
}

// A run that made it would leave it behind.
TEST_F(SocketTest, TheDirectoryOfAnExplicitPathIsNotMade) {
  EXPECT_THAT(ErrorOf(PrepareSocketDirectory(scratch_ / "new/x.sock", environment_)),
              AllOf(HasSubstr(scratch_ / "new cannot be used"), HasSubstr("create it")));
  EXPECT_FALSE(std::filesystem::exists(scratch_ / "new"));
}

TEST_F(SocketTest, ABusyPathIsAClearErrorAndStaysWithItsOwner) {
  const auto owner = Run("vm-1");
  const auto second = UnixListener::Bind(owner->path());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(ErrorOf(second.status()), AllOf(HasSubstr("is busy"), HasSubstr(owner->path())));
  EXPECT_EQ(ProbeSocket(owner->path()), SocketProbe::kLive);
}

TEST_F(SocketTest, AFullBacklogStillCountsAsBusy) {
  const auto owner = Run("vm-1");
  const absl::StatusOr<sockaddr_un> address = SocketAddress(owner->path());
  std::vector<UniqueFd> waiting;
  while (true) {
    UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    ASSERT_LT(waiting.size(), 10000U);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0)
      break;
    waiting.push_back(std::move(fd));
  }
  EXPECT_EQ(ProbeSocket(owner->path()), SocketProbe::kLive);
}

TEST_F(SocketTest, AStaleSocketAfterKillMinus9IsReplaced) {
  const std::string path = scratch_ / "x.sock";
  LeaveStaleSocket(path);
  ASSERT_EQ(ProbeSocket(path), SocketProbe::kStale);
  const auto listener = UnixListener::Bind(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(ProbeSocket(path), SocketProbe::kLive);
}

TEST_F(SocketTest, APathThatIsNoSocketIsLeftAlone) {
  const std::string path = scratch_ / "precious";
  std::ofstream(path) << "data";
  const auto listener = UnixListener::Bind(path);
  EXPECT_THAT(ErrorOf(listener.status()), HasSubstr("is not a socket"));
  std::string content;
  std::ifstream(path) >> content;
  EXPECT_EQ(content, "data");
  EXPECT_THAT(ErrorOf(UnixListener::Bind(scratch_.path()).status()), HasSubstr("is not a socket"));
  symlink(path.c_str(), (scratch_ / "link").c_str());
  EXPECT_THAT(ErrorOf(UnixListener::Bind(scratch_ / "link").status()),
              HasSubstr("is not a socket"));
}

TEST_F(SocketTest, APathThatIsTooLongIsAClearError) {
  const std::string path = scratch_ / std::string(100, 'x');
  EXPECT_THAT(ErrorOf(UnixListener::Bind(path).status()),
              AllOf(HasSubstr("takes at most 107"), HasSubstr(path)));
  EXPECT_FALSE(SocketAddress("").ok());
  EXPECT_FALSE(SocketAddress(std::string("a\0b", 3)).ok());
}

TEST_F(SocketTest, OfManyThatStartAtOnceOnAStalePathOneGetsIt) {
  constexpr int kRounds = 200;
  constexpr size_t kThreads = 4;
  const std::string path = scratch_ / "x.sock";
  std::array<std::unique_ptr<UnixListener>, kThreads> listeners;
  BindAndForget(path);
  int rounds_with_one = 0;
  bool binding = false;
  std::barrier together(kThreads, [&]() noexcept {
    binding = !binding;
    if (binding) return;
    size_t count = 0;
    for (auto& listener : listeners) count += listener == nullptr ? 0 : 1;
    rounds_with_one += count == 1 && ProbeSocket(path) == SocketProbe::kLive ? 1 : 0;
    for (auto& listener : listeners) listener.reset();
    unlink(path.c_str());
    BindAndForget(path);
  });
  std::vector<std::thread> threads;
  for (auto& slot : listeners) {
    threads.emplace_back([&path, &slot, &together] {
      for (int round = 0; round < kRounds; ++round) {
        together.arrive_and_wait();
        auto listener = UnixListener::Bind(path);
        if (listener.ok()) slot = *std::move(listener);
        together.arrive_and_wait();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(rounds_with_one, kRounds);
}

TEST_F(SocketTest, ABindFailsWhileAnotherProcessLocksTheDirectory) {
  const UniqueFd directory(open(scratch_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(flock(directory.get(), LOCK_EX), 0);
  const std::chrono::milliseconds patience(20);
  EXPECT_THAT(ErrorOf(UnixListener::Bind(scratch_ / "x.sock", patience).status()),
              AllOf(HasSubstr("keeps the control directory " + scratch_.path() + " locked"),
                    HasSubstr("--control PATH")));
  EXPECT_EQ(ProbeSocket(scratch_ / "x.sock"), SocketProbe::kAbsent);
  ASSERT_EQ(flock(directory.get(), LOCK_UN), 0);
  EXPECT_TRUE(UnixListener::Bind(scratch_ / "x.sock", patience).ok());
}

TEST_F(SocketTest, TheEndRemovesTheSocketUnlessAnotherTookThePath) {
  auto listener = Run("vm-1");
  const std::string path = listener->path();
  listener.reset();
  EXPECT_EQ(ProbeSocket(path), SocketProbe::kAbsent);

  auto robbed = Run("vm-1");
  unlink(path.c_str());
  const auto other = Run("vm-1");
  robbed.reset();
  EXPECT_EQ(ProbeSocket(path), SocketProbe::kLive);
}

TEST_F(SocketTest, AClientFindsTheOneMachineThatRuns) {
  const auto listener = Run("vm-1");
  EXPECT_EQ(*ResolveControl("", environment_), listener->path());
  EXPECT_EQ(*ResolveControl("vm-1", environment_), listener->path());
}

TEST_F(SocketTest, AClientFindsAMachineThatWasStartedFromAnotherEnvironment) {
  SocketEnvironment bare = environment_;
  bare.xdg_runtime_dir.clear();
  const std::string path = DefaultSocketPath("vm-2", bare);
  ASSERT_TRUE(PrepareSocketDirectory(path, bare).ok());
  const auto listener = UnixListener::Bind(path);
  ASSERT_TRUE(listener.ok());
  EXPECT_EQ(*ResolveControl("", environment_), path);
}

TEST_F(SocketTest, DeadSocketsAndOtherFilesAreNoMachines) {
  const auto listener = Run("vm-1");
  LeaveStaleSocket(DefaultSocketPath("dead", environment_));
  std::ofstream(scratch_ / "xdg/underfoot/file.sock") << "x";
  EXPECT_THAT(FindLiveSockets(environment_), ElementsAre(listener->path()));
}

TEST_F(SocketTest, ADeadSocketIsRemovedByTheNextClientAndOnlyThat) {
  const auto listener = Run("vm-1");
  const std::string dead = DefaultSocketPath("dead", environment_);
  const std::string file = scratch_ / "xdg/underfoot/file.sock";
  LeaveStaleSocket(dead);
  LeaveStaleSocket(scratch_ / "xdg/underfoot/other");
  std::ofstream(file) << "x";
  EXPECT_THAT(FindLiveSockets(environment_), ElementsAre(listener->path()));
  EXPECT_EQ(ProbeSocket(dead), SocketProbe::kAbsent);
  EXPECT_EQ(ProbeSocket(listener->path()), SocketProbe::kLive);
  EXPECT_EQ(ProbeSocket(file), SocketProbe::kNotSocket);
  EXPECT_EQ(ProbeSocket(scratch_ / "xdg/underfoot/other"), SocketProbe::kStale)
      << "no name of ours";
}

TEST_F(SocketTest, ASocketThatIsBeingMadeIsNotTakenForADeadOne) {
  const std::string path = DefaultSocketPath("vm-1", environment_);
  ASSERT_TRUE(PrepareSocketDirectory(path, environment_).ok());
  BindAndForget(path);  // bound, without a listener
  const auto lock = LockDirectory(DirectoryOf(path), std::chrono::milliseconds(0));
  ASSERT_TRUE(lock.ok());
  EXPECT_THAT(FindLiveSockets(environment_), IsEmpty());
  EXPECT_EQ(ProbeSocket(path), SocketProbe::kStale) << "removed while its maker had the lock";
}

TEST_F(SocketTest, DeadSocketsAreRemovedFromNoDirectoryButOurOwn) {
  LeaveStaleSocket(scratch_ / "x.sock");
  RemoveDeadSockets(scratch_.path(), environment_);
  EXPECT_EQ(ProbeSocket(scratch_ / "x.sock"), SocketProbe::kStale);
}

TEST_F(SocketTest, ADirectoryThatIsNotOursHidesNoMachine) {
  const auto listener = Run("vm-1");
  chmod((scratch_ / "xdg/underfoot").c_str(), 0777);
  EXPECT_THAT(FindLiveSockets(environment_), IsEmpty());
}

TEST_F(SocketTest, NoneAndSeveralAreClearErrors) {
  EXPECT_THAT(ErrorOf(ResolveControl("", environment_).status()),
              AllOf(HasSubstr("no machine runs"), HasSubstr("underfoot run")));
  const auto one = Run("vm-1");
  const auto two = Run("vm-2");
  EXPECT_THAT(ErrorOf(ResolveControl("", environment_).status()),
              AllOf(HasSubstr("2 machines run"), HasSubstr(one->path()), HasSubstr(two->path())));
  EXPECT_EQ(*ResolveControl("vm-2", environment_), two->path());
  EXPECT_THAT(ErrorOf(ResolveControl("vm-3", environment_).status()),
              AllOf(HasSubstr("no machine named vm-3"), HasSubstr(one->path())));
  EXPECT_EQ(*ResolveControl("./any/path", environment_), "./any/path");
}

// A path without a slash looks like a name.
TEST_F(SocketTest, ADeadSocketInThisFolderIsNoNameThatIsUnknown) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(scratch_.path());
  const UniqueFd dead(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = *SocketAddress("k.sock");
  const int bound = bind(dead.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const std::string why = ErrorOf(ResolveControl("k.sock", environment_).status());
  std::filesystem::current_path(before);
  ASSERT_EQ(bound, 0);
  EXPECT_THAT(why, AllOf(HasSubstr("no program answers at the socket"), HasSubstr("this folder")));
}

TEST_F(SocketTest, NamesArePortableFileNames) {
  for (const char* good : {"vm-1", "a", "A.b_c-9"}) EXPECT_TRUE(CheckVmName(good).ok()) << good;
  for (const char* bad : {"", ".", "..", ".hidden", "a/b", "a b", "ä", "a\n"}) {
    EXPECT_FALSE(CheckVmName(bad).ok()) << bad;
  }
  EXPECT_TRUE(CheckVmName(std::string(64, 'a')).ok());
  EXPECT_FALSE(CheckVmName(std::string(65, 'a')).ok());
}

}  // namespace
}  // namespace underfoot::testing
