// The huge pages of a host that is made of files: what is refused, and what is changed with leave.

#include "vmm/host/huge_page_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "tests/control/scratch.h"
#include "vmm/host/knob.h"

namespace underfoot::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

class HugePageHostTest : public ::testing::Test {
 protected:
  HugePageHostTest() {
    Write("thp/enabled", "always [madvise] never");
    Write("thp/shmem_enabled", "always within_size [advise] never deny force");
    Pool(4, 4);
  }

  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(scratch_ / path).parent_path());
    std::ofstream(scratch_ / path) << text << "\n";
  }
  std::string Read(const std::string& path) { return ReadKnob(scratch_ / path).value_or("?"); }
  void Pool(uint64_t total, uint64_t free, uint64_t promised = 0) {
    Write("hugetlb/hugepages-2048kB/nr_hugepages", std::to_string(total));
    Write("hugetlb/hugepages-2048kB/free_hugepages", std::to_string(free));
    Write("hugetlb/hugepages-2048kB/resv_hugepages", std::to_string(promised));
  }
  std::unique_ptr<HostChanges> Take() {
    auto changes =
        HostChanges::Take([this](std::string_view line) { told_.emplace_back(line); },
                          {.journal = scratch_ / "journal", .swap_files = scratch_ / "swap"});
    EXPECT_TRUE(changes.ok()) << changes.status();
    return changes.ok() ? *std::move(changes) : nullptr;
  }
  std::string Refusal(HugePages huge, uint64_t mib, Backing backing = Backing::kAnon,
                      HostChanges* changes = nullptr) {
    return std::string(host_.Provide(huge, backing, mib * kMiB, changes).message());
  }

  Scratch scratch_;
  const HugePageHost host_{{.thp = scratch_ / "thp", .hugetlb = scratch_ / "hugetlb"}};
  std::vector<std::string> told_;
};

TEST_F(HugePageHostTest, WhatIsThereIsEnough) {
  EXPECT_TRUE(host_.Provide(HugePages::kOff, Backing::kAnon, 64 * kMiB, nullptr).ok());
  EXPECT_TRUE(host_.Provide(HugePages::kThp, Backing::kAnon, 64 * kMiB, nullptr).ok());
  EXPECT_TRUE(host_.Provide(HugePages::kThp, Backing::kMemfd, 64 * kMiB, nullptr).ok());
  EXPECT_TRUE(host_.Provide(HugePages::k2M, Backing::kAnon, 8 * kMiB, nullptr).ok());
}

TEST_F(HugePageHostTest, TooFewPagesAreRefusedWithTheirNumberAndTheRemedy) {
  EXPECT_THAT(Refusal(HugePages::k2M, 64),
              AllOf(HasSubstr("--huge-pages 2M: 64 MiB of guest memory need 32 free huge pages"),
                    HasSubstr("this host has 4;"), HasSubstr("echo 32 > "),
                    HasSubstr("--allow-host-changes")));
  EXPECT_THAT(Refusal(HugePages::k1G, 4096), HasSubstr("no pages of this size"));
}

TEST_F(HugePageHostTest, PagesThatAreInUseOrPromisedAreNotFree) {
  Pool(40, 34, 3);
  EXPECT_THAT(Refusal(HugePages::k2M, 64), AllOf(HasSubstr("has 31"), HasSubstr("echo 41 > ")));
  Pool(40, 34, 2);
  EXPECT_TRUE(host_.Provide(HugePages::k2M, Backing::kAnon, 64 * kMiB, nullptr).ok());
}

TEST_F(HugePageHostTest, PagesThatTheHostMakesOnDemandCount) {
  Write("hugetlb/hugepages-2048kB/nr_overcommit_hugepages", "30");
  Write("hugetlb/hugepages-2048kB/surplus_hugepages", "2");
  EXPECT_TRUE(host_.Provide(HugePages::k2M, Backing::kAnon, 64 * kMiB, nullptr).ok());
  EXPECT_THAT(Refusal(HugePages::k2M, 66), HasSubstr("has 32"));
}

// The kernel's file says less than was written when it does not find as many.
TEST_F(HugePageHostTest, WithLeavePagesAreReservedAndPutBack) {
  Pool(40, 4);
  std::unique_ptr<HostChanges> changes = Take();
  ASSERT_NE(changes, nullptr);
  // These files do not turn reserved pages into free ones, as a host that finds none.
  EXPECT_THAT(Refusal(HugePages::k2M, 64, Backing::kAnon, changes.get()),
              AllOf(HasSubstr("could find only 4"), HasSubstr("when the host starts")));
  EXPECT_EQ(Read("hugetlb/hugepages-2048kB/nr_hugepages"), "68");
  ASSERT_TRUE(changes->PutBack().ok());
  EXPECT_EQ(Read("hugetlb/hugepages-2048kB/nr_hugepages"), "40");
  EXPECT_THAT(told_.front(), HasSubstr("nr_hugepages from 40 to 68"));
}

TEST_F(HugePageHostTest, WhatTheHostForbidsOfThpIsRefusedOrChangedWithLeave) {
  // Without the other words: what is written to a file of ours does not move the brackets.
  Write("thp/enabled", "never");
  Write("thp/shmem_enabled", "deny");
  EXPECT_THAT(Refusal(HugePages::kThp, 64), AllOf(HasSubstr("is 'never'"), HasSubstr("anon memory"),
                                                  HasSubstr("echo madvise > ")));
  EXPECT_THAT(Refusal(HugePages::kThp, 64, Backing::kMemfd),
              AllOf(HasSubstr("is 'deny'"), HasSubstr("echo advise > ")));
  std::unique_ptr<HostChanges> changes = Take();
  ASSERT_NE(changes, nullptr);
  EXPECT_EQ(Refusal(HugePages::kThp, 64, Backing::kMemfd, changes.get()), "");
  EXPECT_EQ(Read("thp/shmem_enabled"), "advise");
  EXPECT_EQ(Read("thp/enabled"), "never") << "private memory was not asked for";
  ASSERT_TRUE(changes->PutBack().ok());
  EXPECT_THAT(Read("thp/shmem_enabled"), ::testing::StartsWith("deny"));
}

TEST_F(HugePageHostTest, AKernelWithoutThpIsNamed) {
  std::filesystem::remove_all(scratch_ / "thp");
  EXPECT_THAT(Refusal(HugePages::kThp, 64), HasSubstr("CONFIG_TRANSPARENT_HUGEPAGE"));
}

}  // namespace
}  // namespace underfoot::testing
