#include "vmm/host/zram.h"

#include <sys/stat.h>

#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "vmm/host/knob.h"

namespace underfoot {
namespace {

// The time stamps of file systems may be up to 10 ms behind the clock.
constexpr absl::Duration kClockLag = absl::Milliseconds(20);
// Between the note in the journal and the device pass microseconds, or more on a busy host.
constexpr absl::Duration kMadeWithin = absl::Seconds(5);

}  // namespace

bool Zram::supported() const { return std::filesystem::exists(places_.zram_control + "/hot_add"); }

std::string Zram::Next() const {
  int number = 0;
  while (std::filesystem::exists(absl::StrFormat("%s/zram%d", places_.block, number))) ++number;
  return std::to_string(number);
}

std::string Zram::Now() { return std::to_string(absl::GetCurrentTimeNanos()); }

absl::StatusOr<std::string> Zram::Make() const {
  return ReadKnob(places_.zram_control + "/hot_add");  // the read makes the device
}

absl::Status Zram::SetSize(const std::string& number, uint64_t bytes) const {
  return WriteKnob(Attribute(number, "disksize"), std::to_string(bytes));
}

absl::Status Zram::Remove(const std::string& number) const {
  if (!std::filesystem::exists(Attribute(number, ""))) return absl::OkStatus();
  return WriteKnob(places_.zram_control + "/hot_remove", number);
}

ZramOrigin Zram::OriginOf(const std::string& number, const std::string& since) const {
  const absl::StatusOr<std::string> size = ReadKnob(Attribute(number, "disksize"));
  if (!size.ok() || *size != "0") return ZramOrigin::kNone;
  struct stat node {};
  int64_t since_ns = 0;
  if (lstat(PathOf(number).c_str(), &node) != 0 || !absl::SimpleAtoi(since, &since_ns)) {
    return ZramOrigin::kUnknown;
  }
  const absl::Time noted = absl::FromUnixNanos(since_ns);
  // The time at which the device was created, because no process has written to it since.
  const absl::Time made = absl::TimeFromTimespec(node.st_mtim);
  const bool then = noted - kClockLag <= made && made <= noted + kMadeWithin;
  return then ? ZramOrigin::kOurs : ZramOrigin::kUnknown;
}

std::string Zram::Attribute(const std::string& number, const char* name) const {
  return absl::StrFormat("%s/zram%s/%s", places_.block, number, name);
}

}  // namespace underfoot
