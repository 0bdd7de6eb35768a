// Kernels mutated at random: each is refused with a reason, or loaded into RAM and nowhere else.

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/boot/kernel_image.h"
#include "tests/support/random.h"
#include "vmm/boot/linux_boot.h"

namespace underfoot::testing {
namespace {

constexpr uint64_t kMemory = uint64_t{64} << 20;

int Rounds() {
  const char* const text = std::getenv("UNDERFOOT_FUZZ_ROUNDS");
  return text == nullptr ? 4000 : std::atoi(text);
}

void Fuzz(const std::vector<std::byte>& seed_image, size_t from, size_t to, uint64_t stream) {
  Random random(stream);
  int loaded = 0;
  for (int round = 0; round < Rounds(); ++round) {
    std::vector<std::byte> image = seed_image;
    for (uint64_t i = random.Between(1, 4); i > 0; --i) {
      image[random.Between(from, to - 1)] = static_cast<std::byte>(random.Next());
    }
    if (random.Chance(1, 16)) image.resize(random.Below(image.size() + 1));
    image.shrink_to_fit();  // so that a sanitizer sees every read beyond it
    const LinuxBoot boot{
        .kernel = image, .initrd = {}, .command_line = "", .memory_bytes = kMemory};
    const absl::StatusOr<LinuxStart> start =
        LoadLinux(boot, [](Gpa gpa, std::span<const std::byte> bytes) {
          EXPECT_LE(gpa.value, kMemory);
          EXPECT_LE(bytes.size(), kMemory - gpa.value);
          return absl::OkStatus();
        });
    if (start.ok()) {
      ++loaded;
      EXPECT_LT(start->code.value, kMemory);
    } else {
      EXPECT_FALSE(start.status().message().empty());
    }
  }
  EXPECT_GT(loaded, 0) << "no mutation was harmless";
  EXPECT_LT(loaded, Rounds()) << "no mutation was refused";
}

TEST(KernelFuzzTest, ABzImageIsRefusedOrLoadedIntoRam) {
  Fuzz(BzImageFile().Bytes(), BzImageFile::kHeaderAt, BzImageFile::kHeaderAt + sizeof(setup_header),
       1);
}

TEST(KernelFuzzTest, AVmlinuxIsRefusedOrLoadedIntoRam) {
  const std::vector<std::byte> image = VmlinuxFile().Bytes();
  Fuzz(image, 0, sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr), 2);
  Fuzz(image, image.size() - 40, image.size(), 3);
}

}  // namespace
}  // namespace underfoot::testing
