#include "vmm/memory/guest_access.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "absl/strings/str_format.h"
#include "mmu/mutant.h"

namespace underfoot {
namespace {

bool IsWord(const std::byte* guest, size_t bytes) {
  return bytes == sizeof(uint64_t) && OffsetInPage(HvaOf(guest)) % sizeof(uint64_t) == 0;
}

// The guest works on the same bytes: a word is moved in one access, relaxed, since what orders the
// guest's words is the guest's own protocol.
void CopyFromGuest(std::byte* to, std::byte* guest, size_t bytes) {
  if (!IsWord(guest, bytes)) {
    std::memcpy(to, guest, bytes);
    return;
  }
  const uint64_t word =
      std::atomic_ref(*reinterpret_cast<uint64_t*>(guest)).load(std::memory_order::relaxed);
  std::memcpy(to, &word, sizeof(word));
}

void CopyToGuest(std::byte* guest, const std::byte* from, size_t bytes) {
  if (!IsWord(guest, bytes)) {
    std::memcpy(guest, from, bytes);
    return;
  }
  uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  std::atomic_ref(*reinterpret_cast<uint64_t*>(guest)).store(word, std::memory_order::relaxed);
}

// Cuts an access at page boundaries.
template <class Part>
absl::Status ForEachPage(Gpa gpa, size_t bytes, const Part& part) {
  for (size_t done = 0; done < bytes;) {
    const size_t here = std::min<size_t>(bytes - done, kPageSize - OffsetInPage(gpa + done));
    if (absl::Status status = part(gpa + done, done, here); !status.ok()) return status;
    done += here;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GuestAccess::Read(Reader& reader, Gpa gpa, std::span<std::byte> bytes) {
  return ForEachPage(gpa, bytes.size(), [&](Gpa at, size_t done, size_t here) {
    return OnPage(reader, at, here, Access::kRead,
                  [&](std::byte* guest) { CopyFromGuest(&bytes[done], guest, here); });
  });
}

absl::Status GuestAccess::Write(Reader& reader, Gpa gpa, std::span<const std::byte> bytes) {
  return ForEachPage(gpa, bytes.size(), [&](Gpa at, size_t done, size_t here) {
    return OnPage(reader, at, here, Access::kWrite,
                  [&](std::byte* guest) { CopyToGuest(guest, &bytes[done], here); });
  });
}

template <class Copy>
absl::Status GuestAccess::OnPage(Reader& reader, Gpa gpa, size_t bytes, Access access,
                                 const Copy& copy) {
  const std::optional<Hva> hva = memory_.HvaOf(gpa);
  if (!hva.has_value()) {
    return absl::OutOfRangeError(absl::StrFormat("access of %d bytes at gpa 0x%x: RAM ends at 0x%x",
                                                 bytes, gpa.value, memory_.bytes()));
  }
  for (;;) {
    if (const TranslatedPage page = mmu_.Translate(reader, gpa, access)) {
      copy(page.data());
      return absl::OkStatus();
    }
    switch (mmu_.faults().FaultIn(reader, GfnOf(gpa), access).outcome) {
      case FaultOutcome::kMapped:
      case FaultOutcome::kPresent:
        continue;
      case FaultOutcome::kReadOnly:
        return absl::PermissionDeniedError(absl::StrFormat(
            "write of %d bytes at gpa 0x%x: its memslot is read-only", bytes, gpa.value));
      case FaultOutcome::kNoMemslot:
      case FaultOutcome::kSettling:
        return ByHva(reader, *hva, access, copy);
      case FaultOutcome::kBlocked:
      case FaultOutcome::kBusy:
      case FaultOutcome::kAgain:
      case FaultOutcome::kFailed:
        return absl::UnavailableError(absl::StrFormat(
            "gpa 0x%x: its page at hva 0x%x cannot be brought in", gpa.value, hva->value));
    }
  }
}

template <class Copy>
absl::Status GuestAccess::ByHva(Reader& reader, Hva hva, Access access, const Copy& copy) {
  const HvaRange page = PageRangeOf(hva);
  for (;;) {
    const uint64_t begins = mmu_.notifier().Stats().begins;
    if (const auto away = mmu_.in_flight().FindOverlap(page);
        away.has_value() && !UNDERFOOT_MUTANT("access-fails-under-a-bracket")) {
      mmu_.in_flight().WaitForEnd(*away);
      continue;
    }
    const PageInOutcome in = mmu_.page_source().PageIn(page.begin, access).outcome;
    if (in == PageInOutcome::kFailed && mmu_.notifier().Stats().begins != begins &&
        !UNDERFOOT_MUTANT("access-fails-after-a-bracket")) {
      continue;  // its mapping may have been away
    }
    if (in == PageInOutcome::kFailed) {
      return absl::UnavailableError(
          absl::StrFormat("the page at hva 0x%x cannot be brought in", page.begin.value));
    }
    if (in == PageInOutcome::kAgain) {
      sched_yield();
      continue;
    }
    std::optional<InFlightRanges::Bracket> bracket;
    {
      DirectSection section(reader, ReaderKey::Pack(page));
      // The section first, this second: Begin does it the other way round, so it finds the section
      // or is found here. And the page is looked at once more: no fault is taken inside a section.
      bracket = mmu_.in_flight().FindOverlap(page);
      const PagemapEntry entry = pagemap_.Read(page.begin);
      const bool usable =
          entry.swapped || (entry.present && (access == Access::kRead || !entry.uffd_wp));
      if (usable && (!bracket.has_value() || UNDERFOOT_MUTANT("access-ignores-brackets"))) {
        copy(static_cast<std::byte*>(PointerOf(hva)));
        return absl::OkStatus();
      }
    }
    if (bracket.has_value()) mmu_.in_flight().WaitForEnd(*bracket);
  }
}

}  // namespace underfoot
