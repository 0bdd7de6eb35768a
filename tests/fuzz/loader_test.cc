#include "vmm/boot/loader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <utility>

#include "guest/abi.h"
#include "tests/fuzz/elf_image.h"
#include "tests/support/random.h"
#include "vmm/boot/boot.h"

namespace underfoot::testing {
namespace {

absl::StatusOr<Gpa> LoadInto(LoadedMemory& memory, std::span<const std::byte> image) {
  // A copy of just that size, so that a sanitizer sees every read beyond the image.
  const std::vector<std::byte> copy(image.begin(), image.end());
  return LoadElf(copy, kOpenRange, [&](Gpa gpa, std::span<const std::byte> bytes) {
    return memory.Write(gpa, bytes);
  });
}

TEST(LoadElf, PutsBytesAndZeroesWhereTheHeadersSay) {
  const ElfImage image;
  LoadedMemory memory;

  const absl::StatusOr<Gpa> entry = LoadInto(memory, image.Bytes());

  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_EQ(entry->value, ElfImage::kCode + 16);
  EXPECT_EQ(memory.At(ElfImage::kCode), std::byte{0xc0});
  EXPECT_EQ(memory.At(ElfImage::kCode + ElfImage::kCodeBytes), std::byte{0xee});
  EXPECT_EQ(memory.At(ElfImage::kData + ElfImage::kDataBytes - 1), std::byte{0xda});
  EXPECT_EQ(memory.At(ElfImage::kData + ElfImage::kDataBytes), std::byte{0});
  EXPECT_EQ(memory.At(ElfImage::kData + ElfImage::kDataMemory - 1), std::byte{0});
  EXPECT_EQ(memory.At(ElfImage::kData + ElfImage::kDataMemory), std::byte{0xee});
}

TEST(LoadElf, TakesTheBuiltInGuest) {
  LoadedMemory memory;
  const absl::StatusOr<Gpa> entry = LoadInto(memory, EmbeddedGuest());
  ASSERT_TRUE(entry.ok()) << entry.status();
  EXPECT_TRUE(kImageRange.Contains(*entry));
  EXPECT_FALSE(memory.outside);
}

struct Refusal {
  const char* name;
  std::function<void(ElfImage&)> spoil;
  const char* message;  // a part of the error that must be in it
};

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

class Refused : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refused, WithItsReasonAndNothingWritten) {
  ElfImage image;
  GetParam().spoil(image);
  LoadedMemory memory;

  const absl::StatusOr<Gpa> entry = LoadInto(memory, image.Bytes());

  ASSERT_FALSE(entry.ok());
  EXPECT_EQ(entry.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(entry.status().message().find(GetParam().message), std::string::npos) << entry.status();
  EXPECT_EQ(memory.writes, 0);
}

constexpr uint64_t kHuge = ~uint64_t{0};

const Refusal kRefusals[] = {
    {"Magic", [](ElfImage& e) { e.header.e_ident[1] = 'L'; }, "no ELF magic"},
    {"Class32", [](ElfImage& e) { e.header.e_ident[EI_CLASS] = ELFCLASS32; }, "64-bit"},
    {"BigEndian", [](ElfImage& e) { e.header.e_ident[EI_DATA] = ELFDATA2MSB; }, "little-endian"},
    {"Version", [](ElfImage& e) { e.header.e_version = 2; }, "version 2"},
    {"Machine", [](ElfImage& e) { e.header.e_machine = EM_AARCH64; }, "machine 183"},
    {"Shared", [](ElfImage& e) { e.header.e_type = ET_DYN; }, "-no-pie"},
    {"HeaderSize", [](ElfImage& e) { e.header.e_phentsize = 32; }, "of 32 bytes"},
    {"NoHeaders", [](ElfImage& e) { e.header.e_phnum = 0; }, "0 program headers"},
    {"TooManyHeaders", [](ElfImage& e) { e.header.e_phnum = 0xffff; }, "65535 program headers"},
    {"HeadersBeyond", [](ElfImage& e) { e.header.e_phoff = 0x10000; }, "truncated"},
    {"HeadersWrap", [](ElfImage& e) { e.header.e_phoff = kHuge - 8; }, "truncated"},
    {"HeadersCut", [](ElfImage& e) { e.header.e_phnum = 8; }, "truncated"},
    {"Dynamic", [](ElfImage& e) { e.data.p_type = PT_DYNAMIC; }, "dynamically linked"},
    {"Interpreter", [](ElfImage& e) { e.data.p_type = PT_INTERP; }, "dynamically linked"},
    {"NoLoad", [](ElfImage& e) { e.code.p_type = e.data.p_type = PT_NOTE; }, "no PT_LOAD"},
    {"FileBeyondMemory", [](ElfImage& e) { e.code.p_memsz = 8; }, "more than its 0x8"},
    {"OffsetBeyond", [](ElfImage& e) { e.code.p_offset = 0x10000; }, "truncated"},
    {"OffsetWraps", [](ElfImage& e) { e.code.p_offset = kHuge - 15; }, "truncated"},
    {"HugeFile", [](ElfImage& e) { e.code.p_filesz = e.code.p_memsz = kHuge; }, "truncated"},
    {"HugeMemory", [](ElfImage& e) { e.data.p_memsz = kHuge; }, "is open to it"},
    {"AddressLow", [](ElfImage& e) { e.code.p_paddr = 0x1000; }, "is open to it"},
    {"AddressHigh", [](ElfImage& e) { e.data.p_paddr = 0x400000; }, "is open to it"},
    {"AddressWraps", [](ElfImage& e) { e.data.p_paddr = kHuge - 0xfff; }, "is open to it"},
    {"Overlap", [](ElfImage& e) { e.data.p_paddr = ElfImage::kCode + 32; }, "overlaps"},
    {"EntryOutside", [](ElfImage& e) { e.header.e_entry = 0x300000; }, "its entry 0x300000"},
    {"EntryInZeroes", [](ElfImage& e) { e.header.e_entry = ElfImage::kData + 0x1000; },
     "no byte that the file loads"},
};

INSTANTIATE_TEST_SUITE_P(LoadElf, Refused, ::testing::ValuesIn(kRefusals),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(LoadElf, RefusesEveryTruncation) {
  const std::vector<std::byte> whole = ElfImage().Bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    LoadedMemory memory;
    EXPECT_FALSE(LoadInto(memory, std::span(whole).first(size)).ok()) << size << " bytes";
    EXPECT_EQ(memory.writes, 0) << size << " bytes";
  }
}

TEST(LoadElf, PassesOnTheWritersError) {
  const auto bytes = ElfImage().Bytes();
  const auto fail = [](Gpa, std::span<const std::byte>) {
    return absl::UnavailableError("no memory there today");
  };
  EXPECT_EQ(LoadElf(bytes, kOpenRange, fail).status().code(), absl::StatusCode::kUnavailable);
}

// Values that tend to break sums and comparisons, in fields of any width.
uint64_t NastyNumber(Random& random) {
  const uint64_t corners[] = {
      0,          1,          7,          0xff,    0x7fff,        0xffff,
      0x7fffffff, 0xffffffff, 0x80000000, ~0ull,   ~0ull - 0xfff, 1ull << 63,
      0x200000,   0x400000,   0x3fffff,   0x1fffff};
  if (random.Chance(1, 3)) return random.Next();
  return corners[random.Below(std::size(corners))] + random.Below(3) - 1;
}

void Mutate(std::vector<std::byte>& bytes, Random& random) {
  // Most of it hits the headers, where the decisions are.
  const size_t area = random.Chance(4, 5) ? std::min<size_t>(bytes.size(), 176) : bytes.size();
  if (area == 0) return;
  switch (random.Below(4)) {
    case 0:
      bytes[random.Below(area)] = static_cast<std::byte>(random.Next());
      return;
    case 1: {
      const uint64_t number = NastyNumber(random);
      const size_t width = size_t{1} << random.Below(4);
      const size_t at = random.Below(area) & ~(width - 1);
      if (at + width <= bytes.size()) std::memcpy(bytes.data() + at, &number, width);
      return;
    }
    case 2:
      bytes.resize(random.Below(bytes.size() + 1));
      return;
    case 3:
      std::swap(bytes[random.Below(area)], bytes[random.Below(area)]);
      return;
  }
}

void FuzzFrom(const std::vector<std::byte>& seed_image, uint64_t stream, int rounds) {
  Random random(stream);
  int taken = 0;
  for (int i = 0; i < rounds; ++i) {
    std::vector<std::byte> image = seed_image;
    const uint64_t mutations = random.Between(1, 5);
    for (uint64_t m = 0; m < mutations; ++m) Mutate(image, random);
    LoadedMemory memory;
    const absl::StatusOr<Gpa> entry = LoadInto(memory, image);
    ASSERT_FALSE(memory.outside) << "round " << i;
    if (entry.ok()) {
      ++taken;
      ASSERT_TRUE(kOpenRange.Contains(*entry)) << "round " << i;
    } else {
      ASSERT_EQ(memory.writes, 0) << "round " << i << ": " << entry.status();
    }
  }
  // A fuzzer all of whose images fail at the first check sees nothing.
  EXPECT_GT(taken, rounds / 100);
  EXPECT_LT(taken, rounds);
}

TEST(LoadElf, SurvivesMutatedImages) { FuzzFrom(ElfImage().Bytes(), 1, 20000); }

TEST(LoadElf, SurvivesMutationsOfTheBuiltInGuest) {
  FuzzFrom({EmbeddedGuest().begin(), EmbeddedGuest().end()}, 2, 500);
}

class ImageFile : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/underfoot-image-XXXXXX";
    const int fd = mkstemp(name);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(write(fd, "0123456789", 10), 10);
    close(fd);
    path_ = name;
  }
  void TearDown() override { unlink(path_.c_str()); }
  std::string path_;
};

TEST_F(ImageFile, IsReadWhole) {
  const auto image = ReadImageFile(path_, 10);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->size(), 10u);
  EXPECT_EQ((*image)[9], std::byte{'9'});
}

TEST_F(ImageFile, IsRefusedWhenTooLarge) {
  EXPECT_NE(ReadImageFile(path_, 9).status().message().find("10 bytes"), std::string::npos);
}

TEST_F(ImageFile, IsRefusedWhenItIsNoFile) {
  EXPECT_EQ(ReadImageFile("/tmp", 10).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadImageFile("/dev/zero", 10).status().code(), absl::StatusCode::kInvalidArgument);
  const auto missing = ReadImageFile(path_ + ".missing", 10);
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(missing.status().message().find(path_), std::string::npos);
}

TEST_F(ImageFile, IsNamedByEachErrorOfItsContent) {
  const auto write = [](Gpa, std::span<const std::byte>) { return absl::OkStatus(); };
  const absl::Status bad = LoadElfFile(path_, kOpenRange, write).status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(bad.message().find(path_ + ": not a loadable guest image"), std::string::npos) << bad;
  const absl::Status missing = LoadElfFile(path_ + ".missing", kOpenRange, write).status();
  EXPECT_NE(missing.message().find(path_ + ".missing"), std::string::npos) << missing;
}

TEST_F(ImageFile, MayBeLargerThanGuestMemoryHasRoomForThroughWhatIsNotLoaded) {
  std::vector<std::byte> bytes = ElfImage().Bytes();
  bytes.resize(kImageRange.size() + 4096);  // debug information follows what is loaded
  const int fd = open(path_.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC);
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  close(fd);
  LoadedMemory memory;
  const absl::StatusOr<Gpa> entry = LoadElfFile(
      path_, kOpenRange,
      [&](Gpa gpa, std::span<const std::byte> content) { return memory.Write(gpa, content); });
  EXPECT_TRUE(entry.ok()) << entry.status();
}

}  // namespace
}  // namespace underfoot::testing
