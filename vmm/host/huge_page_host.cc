#include "vmm/host/huge_page_host.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "vmm/host/knob.h"

namespace underfoot {
namespace {

constexpr char kMayChange[] = "start with --allow-host-changes, as root";

std::optional<uint64_t> NumberIn(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadKnob(path);
  uint64_t number = 0;
  if (!text.ok() || !absl::SimpleAtoi(*text, &number)) return std::nullopt;
  return number;
}

std::string WordIn(const std::string& path) {
  absl::StatusOr<std::string> word = ReadKnob(path);
  return word.ok() ? *std::move(word) : "absent";
}

}  // namespace

std::string HugePageHost::PathOf(HugePages huge, const char* name) const {
  return absl::StrFormat("%s/hugepages-%ukB/%s", places_.hugetlb, HostPageBytes(huge) >> 10, name);
}

std::optional<HugePageHost::Pool> HugePageHost::PoolOf(HugePages huge) const {
  const auto number = [&](const char* name) { return NumberIn(PathOf(huge, name)); };
  const std::optional<uint64_t> total = number("nr_hugepages");
  if (!total.has_value()) return std::nullopt;
  Pool pool{.total = *total, .free = number("free_hugepages").value_or(0)};
  pool.promised = std::min(number("resv_hugepages").value_or(0), pool.free);
  const uint64_t made = number("surplus_hugepages").value_or(0);
  pool.surplus = std::max(number("nr_overcommit_hugepages").value_or(0), made) - made;
  return pool;
}

bool HugePageHost::OffersThp() const {
  const std::string enabled = WordIn(places_.thp + "/enabled");
  return enabled == "always" || enabled == "madvise";
}

std::string HugePageHost::Describe() const {
  std::string text =
      absl::StrFormat("THP %s, of shared memory %s; hugetlb", WordIn(places_.thp + "/enabled"),
                      WordIn(places_.thp + "/shmem_enabled"));
  bool first = true;
  for (const HugePages huge : {HugePages::k2M, HugePages::k1G}) {
    absl::StrAppendFormat(&text, "%s %s: ", first ? "" : ";", HugePagesName(huge));
    first = false;
    const std::optional<Pool> pool = PoolOf(huge);
    text += pool.has_value()
                ? absl::StrFormat("%u reserved, %u free", pool->total, pool->free - pool->promised)
                : "none";
  }
  return text;
}

absl::Status HugePageHost::Provide(HugePages huge, Backing backing, uint64_t bytes,
                                   HostChanges* changes) const {
  if (huge == HugePages::kOff) return absl::OkStatus();
  if (huge == HugePages::kThp) return ProvideThp(backing, changes);
  return ProvideHugetlb(huge, bytes, changes);
}

absl::Status HugePageHost::ProvideThp(Backing backing, HostChanges* changes) const {
  const bool shared = backing == Backing::kMemfd;
  const std::string knob = places_.thp + (shared ? "/shmem_enabled" : "/enabled");
  const std::string word = WordIn(knob);
  if (word == "absent") {
    return absl::FailedPreconditionError(absl::StrFormat(
        "--huge-pages thp: %s is absent; use a kernel with CONFIG_TRANSPARENT_HUGEPAGE, or "
        "--huge-pages off",
        knob));
  }
  if (word != "never" && word != "deny") return absl::OkStatus();
  const char* const wanted = shared ? "advise" : "madvise";
  if (changes != nullptr) return changes->SetKnob(knob, wanted);
  return absl::FailedPreconditionError(absl::StrFormat(
      "--huge-pages thp: %s is '%s', so this host makes no huge pages of %s memory; "
      "echo %s > %s, or %s",
      knob, word, BackingName(backing), wanted, knob, kMayChange));
}

absl::Status HugePageHost::ProvideHugetlb(HugePages huge, uint64_t bytes,
                                          HostChanges* changes) const {
  const std::string_view name = HugePagesName(huge);
  const uint64_t needed = bytes / HostPageBytes(huge);
  const std::string knob = PathOf(huge, "nr_hugepages");
  std::optional<Pool> pool = PoolOf(huge);
  if (!pool.has_value()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("--huge-pages %s: this host has no pages of this size (%s is absent); take "
                        "--huge-pages thp or off",
                        name, knob));
  }
  if (pool->available() >= needed) return absl::OkStatus();
  const uint64_t wanted = pool->total + needed - pool->available();
  if (changes != nullptr) {
    if (absl::Status set = changes->SetKnob(knob, std::to_string(wanted)); !set.ok()) return set;
    // The kernel reserves as many as it finds, and reports no error.
    pool = PoolOf(huge);
    if (pool.has_value() && pool->available() >= needed) return absl::OkStatus();
  }
  const uint64_t available = pool.has_value() ? pool->available() : 0;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "--huge-pages %s: %u MiB of guest memory need %u free huge pages of %s, and this host %s %u; "
      "give the guest less memory%s",
      name, bytes >> 20, needed, name, changes != nullptr ? "could find only" : "has", available,
      changes != nullptr ? ", or reserve them when the host starts"
                         : absl::StrFormat(", echo %u > %s, or %s", wanted, knob, kMayChange)));
}

}  // namespace underfoot
