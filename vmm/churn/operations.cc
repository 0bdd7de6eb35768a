#include "vmm/churn/operations.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "mmu/check.h"

namespace underfoot {
namespace {

constexpr uint64_t kMaxPages = 64;
constexpr uint64_t kMaxProtectedPages = 8;
// Long enough for vCPUs to run into it.
constexpr absl::Duration kProtectionLasts = absl::Microseconds(100);
constexpr absl::Duration kSlotIsAway = absl::Milliseconds(1);

}  // namespace

ChurnOperations::Target ChurnOperations::Pick(Content content, uint64_t max_pages,
                                              uint64_t random) const {
  std::vector<const RamSlot*> slots;
  for (const RamSlot& slot : memory_.slots()) {
    if (slot.kind.has_value() && (content == Content::kKept || slot.discardable())) {
      slots.push_back(&slot);
    }
  }
  UNDERFOOT_CHECK(!slots.empty(), "no slot to churn", memory_.bytes(), 0);
  std::mt19937_64 draw(random);
  const RamSlot& slot = *slots[draw() % slots.size()];
  const uint64_t slot_pages = slot.bytes >> kPageShift;
  // Mostly single pages, sometimes long runs.
  const uint64_t pages = std::min({uint64_t{1} << (draw() % 7), max_pages, slot_pages});
  const Hva first = slot.hva + (draw() % (slot_pages - pages + 1)) * kPageSize;
  return {&slot, PageRangeOf(first, pages)};
}

absl::Status ChurnOperations::Run(ChurnKind kind, uint64_t random) {
  const bool memfd = memory_.backing() == Backing::kMemfd;
  switch (kind) {
    case ChurnKind::kDiscard:
      return hooks_.Discard(Pick(Content::kMayGo, kMaxPages, random).range);
    case ChurnKind::kZap:
      UNDERFOOT_CHECK(memfd, "zap would lose the content of private memory", random, 0);
      return hooks_.Madvise(Pick(Content::kKept, kMaxPages, random).range, MADV_DONTNEED);
    case ChurnKind::kPunch:
      return Punch(Pick(Content::kMayGo, kMaxPages, random));
    case ChurnKind::kWp:
      return hooks_.WriteProtect(Pick(Content::kKept, kMaxPages, random).range);
    case ChurnKind::kProtect:
      return Protect(Pick(Content::kKept, kMaxProtectedPages, random));
    case ChurnKind::kMemslot:
      return DeleteAndAddSlot(*Pick(Content::kKept, 1, random).slot);
    case ChurnKind::kForeign:
      return DiscardPastTheHooks(Pick(Content::kMayGo, kMaxPages, random));
  }
  return absl::InternalError("an unknown kind of churn");
}

absl::Status ChurnOperations::Punch(const Target& target) {
  const uint64_t offset = target.slot->gpa.value + (target.range.begin - target.slot->hva);
  return hooks_.PunchHole(memory_.fd(), offset, target.range.size());
}

absl::Status ChurnOperations::Protect(const Target& target) {
  MmHooks::Protection protection(hooks_, target.range, PROT_READ);
  absl::SleepFor(kProtectionLasts);
  return protection.status();
}

absl::Status ChurnOperations::DeleteAndAddSlot(const RamSlot& slot) {
  if (absl::Status removed = memory_.RemoveSlot(slot, mmu_, vm_, gate_); !removed.ok()) {
    return removed;
  }
  absl::SleepFor(kSlotIsAway);
  return memory_.AddSlot(slot, mmu_, vm_, gate_);
}

// As a library would that knows nothing of guests.
absl::Status ChurnOperations::DiscardPastTheHooks(const Target& target) {
  if (syscall(SYS_madvise, target.range.begin.value, target.range.size(), MADV_DONTNEED) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(
      errno, absl::StrFormat("raw madvise of hva [0x%x, 0x%x)", target.range.begin.value,
                             target.range.end.value));
}

}  // namespace underfoot
