// The guest of docs/guests.md: it loads, it runs while its memory is moved, and its verdict counts.

#include <elf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tests/control/scratch.h"
#include "tests/fuzz/elf_image.h"
#include "tests/support/minimal_vmm.h"
#include "tests/support/skip.h"
#include "tests/support/wait_until.h"
#include "vmm/boot/loader.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_control.h"

namespace underfoot::testing {
namespace {

class OwnGuest : public ::testing::Test {
 protected:
  void SetUp() override {
    // The machine of a stock KVM has the file only if it is given one.
    if (access(UNDERFOOT_OWN_GUEST, R_OK) != 0) GTEST_SKIP() << "no " << UNDERFOOT_OWN_GUEST;
  }
};

TEST_F(OwnGuest, IsLoadable) {
  const auto write = [](Gpa, std::span<const std::byte>) { return absl::OkStatus(); };
  const absl::StatusOr<Gpa> entry = LoadElfFile(UNDERFOOT_OWN_GUEST, kImageRange, write);
  EXPECT_TRUE(entry.ok()) << entry.status();
}

TEST_F(OwnGuest, PassesWhileItsMemoryIsMoved) {
  UNDERFOOT_NEEDS_KVM();
  for (const Backing backing : {Backing::kAnon, Backing::kMemfd}) {
    RunOptions options;
    options.guest = UNDERFOOT_OWN_GUEST;
    options.memory_bytes = uint64_t{36} << 20;
    options.backing = backing;
    options.name = "own";
    options.churn = {.text = "some",
                     .preset = false,
                     .rates = {{ChurnKind::kDiscard, 200}, {ChurnKind::kMemslot, 20}}};
    auto machine = Machine::Create(options, [](unsigned, std::string_view) {});
    ASSERT_TRUE(machine.ok()) << machine.status();
    ASSERT_TRUE((*machine)->Start().ok());
    EXPECT_TRUE(WaitUntil(
        [&] {
          const Stats stats = (*machine)->GetStats();
          return stats.guest.pages_checked > 20000 && TotalOperations(stats.churn.operations) > 50;
        },
        3 * kDeadline));
    const absl::Status finished = (*machine)->Finish();
    EXPECT_TRUE(finished.ok()) << finished;
    const Stats stats = (*machine)->GetStats();
    EXPECT_EQ(stats.guest.verdict, GuestVerdict::kGood);
    EXPECT_EQ(stats.guest.mismatches, 0u);
    EXPECT_EQ(stats.audit.unexplained, 0u);
  }
}

// A guest of a few instructions, without the header of docs/guests.md: what a guest may do wrong.
class TinyGuest : public ::testing::Test {
 protected:
  void SetUp() override { UNDERFOOT_NEEDS_KVM(); }

  void Start(const std::vector<uint8_t>& code, const ChurnRates& rates = {}) {
    const Elf64_Ehdr header = ElfHeader(abi::kImageGpa, 1);
    Elf64_Phdr segment{};
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | PF_X;
    segment.p_offset = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
    segment.p_vaddr = segment.p_paddr = abi::kImageGpa;
    segment.p_filesz = segment.p_memsz = code.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&header), sizeof(header));
    file.write(reinterpret_cast<const char*>(&segment), sizeof(segment));
    file.write(reinterpret_cast<const char*>(code.data()),
               static_cast<std::streamsize>(code.size()));
    file.close();
    RunOptions options;
    options.guest = path_;
    options.memory_bytes = uint64_t{36} << 20;
    options.name = "tiny";
    options.churn = {.text = "some", .preset = false, .rates = rates};
    auto machine = Machine::Create(options, [](unsigned, std::string_view) {});
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
    ASSERT_TRUE(machine_->Start().ok());
  }

  Scratch scratch_;
  const std::string path_ = scratch_ / "tiny.elf";
  std::unique_ptr<Machine> machine_;
};

TEST_F(TinyGuest, ThatReportsGoodWithoutACheckedPageDoesNotPass) {
  static_assert(abi::kExitPort == 0x501 && static_cast<int>(abi::Verdict::kGood) == 0);
  ASSERT_NO_FATAL_FAILURE(Start({0xba, 0x01, 0x05, 0, 0,  // mov edx, kExitPort
                                 0x31, 0xc0,              // xor eax, eax: kGood
                                 0xef,                    // out dx, eax
                                 0xf4, 0xeb, 0xfd}));     // hlt, for ever
  EXPECT_TRUE(machine_->WaitForEnd(absl::FromChrono(3 * kDeadline)));
  const absl::Status finished = machine_->Finish();
  EXPECT_TRUE(absl::IsDataLoss(finished)) << finished;
  EXPECT_NE(finished.message().find("has checked no page"), std::string::npos) << finished;
  EXPECT_EQ(machine_->GetStats().guest.verdict, GuestVerdict::kGood);
}

// Its owner waits for as long as it likes, on memory that moves no more.
TEST_F(TinyGuest, ThatIgnoresStopIsWaitedForWithoutChurn) {
  ASSERT_NO_FATAL_FAILURE(Start({0xeb, 0xfe}, {{ChurnKind::kDiscard, 1000}}));  // jmp to itself
  const auto operations = [&] { return TotalOperations(machine_->GetStats().churn.operations); };
  ASSERT_TRUE(WaitUntil([&] { return operations() > 20; }));
  MachineControl control(*machine_);
  std::vector<uint64_t> seen;
  const absl::Status finished = machine_->Finish([&](const Machine::EndProgress&) {
    seen.push_back(operations());
    EXPECT_FALSE(machine_->GetStats().churn.running);
    const ChurnRequest again{.running = true, .seed = {}, .rates = {}};
    EXPECT_TRUE(absl::IsFailedPrecondition(control.PutChurn(again).status()));
    return seen.size() < 3;
  });
  EXPECT_TRUE(absl::IsCancelled(finished)) << finished;
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen.front(), seen.back());
}

}  // namespace
}  // namespace underfoot::testing
