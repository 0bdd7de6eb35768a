// A whole machine whose disk does not answer. The machine ends all the same, and says which file it is.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/boot/machine_fixture.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/base/unique_fd.h"
#include "vmm/machine/machine.h"
#include "vmm/ram/userfaultfd.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Field;
using ::testing::HasSubstr;

// A file to which no other thread can write. A thread is in the middle of a write to it, whose source
// is a page that does not come: it has the lock of the inode, for which every other write waits. Of all
// files only those in memory are sure to work like that.
class HeldFile {
 public:
  static constexpr uint64_t kBytes = uint64_t{1} << 20;

  // Null: this process may not resolve the faults of system calls.
  static std::unique_ptr<HeldFile> Make() {
    absl::StatusOr<Userfaultfd> uffd = Userfaultfd::Open({.events = UffdEvents::kNone});
    if (!uffd.ok()) return nullptr;
    return std::unique_ptr<HeldFile>(new HeldFile(*std::move(uffd)));
  }
  ~HeldFile() {
    Release();
    munmap(PointerOf(page_.begin), page_.size());
  }

  std::string path() const { return absl::StrCat("/proc/self/fd/", fd_.get()); }
  // True as soon as the write has the lock.
  bool Hold() {
    writer_ =
        std::thread([this] { EXPECT_EQ(pwrite(fd_.get(), PointerOf(page_.begin), 1, 0), 1); });
    return WaitUntil([this] {
      std::array<uffd_msg, 1> message;
      const absl::StatusOr<size_t> read = uffd_.Read(message);
      return read.ok() && *read == 1;
    });
  }
  void Release() {
    if (!writer_.joinable()) return;
    static_cast<void>(uffd_.CopyZeroes(page_.begin));
    writer_.join();
  }

 private:
  explicit HeldFile(Userfaultfd uffd)
      : fd_(memfd_create("held", MFD_CLOEXEC)), uffd_(std::move(uffd)) {
    EXPECT_EQ(ftruncate(fd_.get(), kBytes), 0);
    void* const page =
        mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(page, MAP_FAILED);
    page_ = PageRangeOf(HvaOf(page));
    EXPECT_TRUE(uffd_.Register(page_, Backing::kAnon).ok());
  }

  UniqueFd fd_;
  Userfaultfd uffd_;
  HvaRange page_;
  std::thread writer_;
};

// What the thread of this name is doing: the number of its system call, as proc(5) shows it of a thread
// that waits in one; empty: there is no such thread.
std::string CallOfThread(const std::string& name) {
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::string found;
    std::getline(std::ifstream(task.path() / "comm"), found);
    if (found != name) continue;
    std::string call;
    std::ifstream(task.path() / "syscall") >> call;
    return call.empty() ? "?" : call;
  }
  return "";
}

class HangingDiskTest : public MachineTest {
 protected:
  void OnLine(std::string_view line) override { text_ += std::string(line) + "\n"; }

  std::string text_;  // of the guest's serial line
};

TEST_F(HangingDiskTest, AMachineWhoseDiskDoesNotAnswerEndsAndNamesTheFile) {
  const std::unique_ptr<HeldFile> file = HeldFile::Make();
  if (file == nullptr) UNDERFOOT_SKIP("userfaultfd cannot be opened");
  RunOptions options;
  options.guest = "mixed";
  options.memory_bytes = uint64_t{48} << 20;
  options.name = "test";
  options.disks = {{.path = file->path()}};
  options.end_timeout = std::chrono::milliseconds(500);  // the guest waits for the disk for ever
  ASSERT_TRUE(file->Hold());
  ASSERT_NO_FATAL_FAILURE(Start(options));
  if (machine_ == nullptr) return;
  ASSERT_TRUE(WaitUntil([] { return CallOfThread("blk-0") == std::to_string(SYS_pwrite64); }))
      << text_;
  EXPECT_TRUE(absl::IsCancelled(machine_->Finish()));
  EXPECT_TRUE(machine_->left_behind());
  EXPECT_THAT(
      machine_->problems(),
      Contains(AllOf(Field(&RunProblem::end, RunEnd::kUnfinished),
                     Field(&RunProblem::text,
                           AllOf(HasSubstr("blk-0 ('" + file->path() + "')"),
                                 HasSubstr("does not return, and its thread is left behind"))))));
  for (const RunProblem& problem : machine_->problems()) {
    EXPECT_EQ(problem.end, RunEnd::kUnfinished) << problem.text;
  }
  // So that this process goes on without the thread.
  file->Release();
  EXPECT_TRUE(WaitUntil([] { return CallOfThread("blk-0").empty(); }));
}

}  // namespace
}  // namespace underfoot::testing
