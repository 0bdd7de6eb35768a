// Sizes, times and counts as people write and read them.
//
// Thread safety: pure functions.

#ifndef UNDERFOOT_VMM_CLI_UNITS_H_
#define UNDERFOOT_VMM_CLI_UNITS_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace underfoot {

// "4096", "64K", "256M", "256MiB", "1G", "1T": powers of 1024, upper or lower case.
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);

// The longest duration that an option takes.
inline constexpr unsigned kMostDays = 365;

// "500ms", "0.5s", "10s", "2m", "1h", "1d", to the nearest millisecond; "0" alone needs no unit.
absl::StatusOr<std::chrono::milliseconds> ParseDuration(std::string_view text);

// Decimal, or hexadecimal after 0x.
absl::StatusOr<uint64_t> ParseNumber(std::string_view text);

std::string FormatCount(uint64_t count);                     // "1,234,567"
std::string Counted(uint64_t count, std::string_view noun);  // "1 page", "1,234 pages"
std::string FormatBytes(uint64_t bytes);  // "256 MiB"; in bytes if it is not a whole number of KiB
std::string FormatMicros(uint64_t us);    // "850 us", "1.2 ms", "12.3 s", "4 min 10 s"

}  // namespace underfoot

#endif  // UNDERFOOT_VMM_CLI_UNITS_H_
